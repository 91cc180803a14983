"""`config.pack`: how documents become rows of fixed length."""

from dataclasses import dataclass
from typing import Literal, get_args

from cprec_jax.config.setting import setting

Stage = Literal["cpt", "sft"]


@dataclass(frozen=True, kw_only=True)
class PlainTextSpec:
    """General text for replay, packed into the split `text`."""

    files: tuple[str, ...] = setting(
        help="paths or patterns (`**` too) of .txt and .jsonl, gzipped or not, below root", content=True
    )
    root: str = setting(".", "where the files are", content=True)
    field: str = setting("text", "the key of a JSON line that holds the text")
    document: str = setting(
        "file", "what one document of a .txt file is: the whole file, a paragraph (blank lines between), or a line"
    )
    max_tokens: int | None = setting(None, "stop after about so many (None: all)")
    max_bad_lines: int = setting(1000, "more of them in one file are an error")

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files is empty; name at least one .txt or .jsonl file, or leave config.pack.text out")
        if self.document not in ("file", "paragraph", "line"):
            raise ValueError(f"document {self.document!r} is not one of 'file', 'paragraph', 'line'")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens {self.max_tokens} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class PackSpec:
    """Rows for training."""

    row_length: int = setting(512, "tokens per row")
    seed: int = setting(0, "of the pairing of documents")
    window: int = setting(8_000_000, "interactions that are held and packed at a time; about 60 bytes each")
    workers: int | None = setting(None, "processes that write (None: what suits the machine)", affects=())
    text: PlainTextSpec | None = setting(None, "general text for replay", affects=("rows.cpt",))
    stages: tuple[Stage, ...] | None = setting(
        None, "what rows are made for, beside those that the runs read: 'cpt', 'sft' or both, in this order", affects=()
    )

    def __post_init__(self) -> None:
        if self.stages is not None and list(self.stages) != [
            stage for stage in get_args(Stage) if stage in self.stages
        ]:
            raise ValueError(f"stages {self.stages!r}: give 'cpt', 'sft' or both, each once and in this order")
        if self.window < 1 or (self.workers is not None and self.workers < 1):
            raise ValueError(f"window {self.window} and workers {self.workers} must be at least 1")
        if self.row_length < 32 or self.row_length % 8:
            raise ValueError(f"row_length {self.row_length} must be a multiple of 8, at least 32")
