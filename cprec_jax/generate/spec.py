"""`config.generate`: how much is written, how it is chosen, and how titles are ranked."""

from dataclasses import dataclass
from typing import Literal

from cprec_jax.spec import at_least_one


@dataclass(frozen=True, kw_only=True)
class GenerateSpec:
    """output: `text` or ranked `titles` (None: text for a prompt, titles for a history or a user).

    new_tokens: the most that are written. temperature: 0 takes the likeliest token each time, otherwise tokens are drawn, by `seed`.
    titles: how many of the ranking are shown. title_temperature: of the title distribution (`evaluate` notes the fitted one in
    results.json). beam: None ranks the whole catalogue exactly; a number visits only so many nodes of the title trie a level, for huge
    catalogues: quicker, deterministic, and it may miss titles (`config.evaluate.beam` measures how many). prompt_tokens: the most recent
    items that fit so many tokens make up a history's prompt. split: whose users `--user` names. batch: prompts that go together. step:
    which checkpoint (None: the newest). dtype: of the computation.
    """

    output: Literal["text", "titles"] | None = None
    new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    titles: int = 10
    title_temperature: float = 1.0
    beam: int | None = None
    prompt_tokens: int = 256
    split: Literal["test", "valid"] = "test"
    batch: int = 8
    step: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        at_least_one(self, "new_tokens", "titles", "prompt_tokens", "batch", "beam")
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature} must be at least 0 (0 is greedy)")
        if self.title_temperature <= 0:
            raise ValueError(f"title_temperature {self.title_temperature} must be above 0")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed {self.seed} must lie in [0, 2**32)")
