"""`config.generate`: how much is written, how it is chosen, and how titles are ranked."""

from dataclasses import dataclass
from typing import Literal

from cprec_jax.config.build import at_least_one
from cprec_jax.config.setting import setting


@dataclass(frozen=True, kw_only=True)
class GenerateSpec:
    """What the job `generate` prints."""

    run: str | None = setting(None, "which run of the work directory (None: cpt, or the only one)")
    output: Literal["text", "titles"] | None = setting(
        None, "text, or ranked titles (None: text for a prompt, else titles)"
    )
    new_tokens: int = setting(64, "the most that are written")
    temperature: float = setting(0.0, "0 takes the likeliest token each time, else tokens are drawn")
    seed: int = setting(0, "of the drawing")
    titles: int = setting(10, "how many of the ranking are shown")
    title_temperature: float = setting(
        1.0, "of the title distribution (`evaluate` notes the fitted one in results.json)"
    )
    beam: int | None = setting(
        None, "nodes of the title trie per level, quicker and may miss titles (None: the whole catalogue, exactly)"
    )
    prompt_tokens: int = setting(256, "the most recent items that fit so many tokens make up a history's prompt")
    split: Literal["test", "valid"] = setting("test", "whose users --user names")
    batch: int = setting(8, "prompts that go together")
    step: int | None = setting(None, "which checkpoint (None: the one that the run stands for)")
    dtype: Literal["float32", "bfloat16"] = setting("float32", "of the computation")

    def __post_init__(self) -> None:
        at_least_one(self, "new_tokens", "titles", "prompt_tokens", "batch", "beam")
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} must be at least 0 (0 is greedy)")
        if self.title_temperature <= 0:
            raise ValueError(f"title_temperature {self.title_temperature} must be above 0")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed {self.seed} must lie in [0, 2**32)")
