"""`config.text`: the tokenizer, and the words of the one template."""

from dataclasses import dataclass

from cprec_jax.config.setting import setting

TRAIN = "train"  # the value of `tokenizer` that asks for a new one


@dataclass(frozen=True, kw_only=True)
class TemplateSpec:
    """The words round titles. `{scope}` becomes the domain's name, or `all_domains` in mixed sequences."""

    header: str = setting(
        "Items one user chose in {scope}, oldest first:\n",
        "before the first title; ends with white space that the tokenizer keeps apart",
    )
    end_of_item: str = setting("\n", "after each title")
    all_domains: str = setting("all domains", "the scope of mixed sequences")
    loss_on_header: bool = setting(False, "whether the header's tokens carry loss, too")

    def __post_init__(self) -> None:
        if not self.end_of_item:
            raise ValueError("end_of_item is empty; without it a title that begins another one cannot be told from it")
        if "{" in self.header.replace("{scope}", ""):
            raise ValueError(f"header {self.header!r}: only {{scope}} can be filled in")


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """Which tokenizer and which words."""

    tokenizer: str | None = setting(
        None,
        "'train', a Hugging Face directory, or a hub id owner/name[@revision] (None: the base model's, else 'train')",
        content=True,
    )
    vocab_size: int = setting(8192, "of a tokenizer that is trained")
    across_words: bool = setting(True, "a tokenizer that is trained may merge across words and line ends")
    new_tokens: tuple[str, ...] = setting(
        (), "texts that become one token each; {scope} in one stands for every scope of the template"
    )
    template: TemplateSpec = setting(
        factory=TemplateSpec, help="words of the documents", affects=("rows", "results.hf")
    )

    def __post_init__(self) -> None:
        if any(not text.strip() for text in self.new_tokens):
            raise ValueError(f"new_tokens {self.new_tokens!r} holds an empty text")

    @property
    def source(self) -> str:
        """`tokenizer`, once the whole config has decided it."""
        return TRAIN if self.tokenizer is None else self.tokenizer
