"""`config.corpus.sources`: where a domain's files are, how they are written, and what it is for."""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from cprec_jax.config.build import within
from cprec_jax.config.setting import setting

Role = Literal["pretrain", "downstream"]
Order = Literal["timestamp", "position"]
Split = Literal["time", "leave_one_out"]
FILES = ("interactions", "items")
INTEGER = 2**31 - 1  # what the columns of `sql/tables.sql` hold
MOST_BYTES_OF_NAME = 100  # bytes: a file name has 255, and ours say more than the source's name


@dataclass(frozen=True, kw_only=True)
class ColumnsSpec:
    """Column names in the source files, or their places "1", "2", ... in a file without a header line (user, item,
    time; item, title)."""

    user: str | None = setting(None, "of the user (default user_id)")
    item: str | None = setting(None, "of the item (default item_id)")
    time: str | None = setting(None, "of the time (default timestamp, else position)")
    title: str | None = setting(None, "of the title (default title)")

    def named(self) -> dict[str, str]:
        """Those that have a name."""
        return {key: name for key, name in vars(self).items() if name is not None}


COLUMN_NAMES = {"user": "user_id", "item": "item_id", "title": "title"}
# in the order of a file without a header line
COLUMNS_OF = {
    "interactions": ("user", "item", "time"),
    "items": ("item", "title"),
}


def _check_dialect(spec: "FileSpec | SourceSpec") -> None:
    if spec.delimiter is not None and spec.delimiter != "auto":
        text = spec.delimiter.replace("\\t", "\t")
        if not 1 <= len(text.encode()) <= 4 or any(c in "\r\n\0\"'" for c in text):
            raise ValueError(f"delimiter {spec.delimiter!r}: one to four bytes are needed, no quote and no line break")
    if spec.quote not in (None, "auto", "none") and (
        len(spec.quote) != 1 or not spec.quote.isascii() or spec.quote in "\r\n\0\t "
    ):
        raise ValueError(f"quote {spec.quote!r}: write 'auto', 'none' or one character such as '\"'")
    if spec.encoding not in (None, "auto"):
        try:
            b"a\xff".decode(spec.encoding, "replace")
            "a".encode(spec.encoding)
        except (LookupError, ValueError):
            raise ValueError(
                f"encoding {spec.encoding!r}: not known; write 'auto', 'utf-8', 'utf-16', 'cp1252', 'latin-1', ..."
            ) from None
    if spec.format == "parquet":
        for name in ("delimiter", "quote", "header", "encoding"):
            if getattr(spec, name) is not None:
                raise ValueError(
                    f"{name}: a Parquet file has none; leave it out, or set it under `files` for the other file"
                )


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """How one file of a table is written, where it differs from what the source says of both."""

    columns: ColumnsSpec = setting(ColumnsSpec(), "names of its columns")
    format: Literal["auto", "csv", "tsv", "parquet"] | None = setting(None, "csv, tsv or parquet (auto: by the name)")
    delimiter: str | None = setting(
        None,
        'between two fields, up to four bytes, "\\\\t" is a tab (auto: the one under which the header line has the '
        "columns)",
    )
    quote: str | None = setting(
        None, "the character round fields that hold a delimiter, or none (auto: a double quote but for TSV)"
    )
    header: bool | None = setting(None, "whether there is a header line (default true)")
    encoding: str | None = setting(
        None, "such as cp1252 or latin-1 (auto: UTF-8, or UTF-16 or UTF-32 where the file says so)"
    )
    member: str | None = setting(None, "which file of a zip archive")

    def __post_init__(self) -> None:
        _check_dialect(self)


@dataclass(frozen=True, kw_only=True)
class FilesSpec:
    """Settings of one of the two files alone; they win over the source's."""

    interactions: FileSpec = setting(FileSpec(), "of the file of interactions")
    items: FileSpec = setting(FileSpec(), "of the file of titles")


@dataclass(frozen=True, kw_only=True)
class RemoteSpec:
    """Where a file can be had with `config.corpus.download=true`. Without a checksum it is taken as it comes, with its
    SHA-256 printed."""

    url: str = setting(help="address of the file or archive", affects=())
    sha256: str | None = setting(None, "of what lies at the address", affects=())
    md5: str | None = setting(None, "of what lies at the address", affects=())
    checksum_url: str | None = setting(None, "of a small text that holds the checksum", affects=())
    member: str | None = setting(None, "the file to take out of a zip archive", affects=())

    def __post_init__(self) -> None:
        for url in (self.url, self.checksum_url):
            if url is not None and not url.startswith(("http://", "https://")):
                raise ValueError(f"url {url!r}: only http:// and https:// can be fetched")
        for name, digits in (("sha256", 64), ("md5", 32)):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", value):
                raise ValueError(f"{name} {value!r}: {digits} hexadecimal digits are needed")


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """One domain: where its interactions and titles are, and what it is for. A key that the adapter does not read is
    refused."""

    name: str = setting(help="of the domain or set")
    role: Role = setting(help="pretrain (a domain) or downstream (an unseen set)")
    adapter: str = setting("table", "table, amazon2014, amazon2018, amazon2023, movielens, ninerec, tfds or synthetic")
    platform: str = setting("default", "sources of one platform that share a raw user id have the same user")
    interactions: str | tuple[str, ...] | None = setting(
        None, "a file (adapter table: or a list of them, or a directory of *.parquet), below root", content=True
    )
    items: str | tuple[str, ...] | None = setting(None, "file of the titles, likewise", content=True)
    columns: ColumnsSpec = setting(ColumnsSpec(), "names of the columns in both files")
    format: Literal["auto", "csv", "tsv", "parquet"] = setting(
        "auto", "of both files: csv, tsv or parquet (auto: by the name)"
    )
    delimiter: str | None = setting(None, "of both files, see files.*.delimiter")
    quote: str | None = setting(None, "of both files, see files.*.quote")
    header: bool | None = setting(None, "of both files, see files.*.header")
    encoding: str | None = setting(None, "of both files, see files.*.encoding")
    files: FilesSpec = setting(FilesSpec(), "settings of one of the two files alone")
    order: Literal["auto", "timestamp", "position"] = setting(
        "auto", "what the time column holds (auto: a column called position holds order only)"
    )
    time_unit: Literal["s", "ms"] | None = setting(None, "of times that are numbers (default s)")
    split: Literal["auto", "time", "leave_one_out"] | None = setting(None, "overrides config.corpus.split")
    k_core: int | None = setting(None, "overrides config.corpus.k_core")
    language: Literal["en", "zh"] | None = setting(
        None, "of the titles, where a platform publishes several (NineRec; default en)"
    )
    tfds_split: str | None = setting(None, "of a TFDS dataset whose interactions are read (default train)")
    urls: dict[str, RemoteSpec] = setting(
        factory=dict, help="where the files can be had: {interactions: ..., items: ...}", affects=()
    )

    def __post_init__(self) -> None:
        for which in self.urls:
            if which not in FILES or not isinstance(getattr(self, which), str):
                raise ValueError(
                    f"urls.{which}: urls are for 'interactions' and 'items', where the source names such a file (one, "
                    "no list)"
                )
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise ValueError(f"name {self.name!r} becomes a file name: use letters, digits, '-' and '_'")
        if len(self.name.encode()) > MOST_BYTES_OF_NAME:
            raise ValueError(
                f"name {self.name[:20]!r}... becomes a file name: at most {MOST_BYTES_OF_NAME} bytes are possible"
            )
        within(self, 0, INTEGER, "k_core")
        if self.split == "time" and self.order == "position":
            raise ValueError(
                f"source {self.name!r} has order 'position', which cannot be split by time; use split='leave_one_out'"
            )
        if self.order == "position" and self.time_unit is not None:
            raise ValueError(f"time_unit: source {self.name!r} has order 'position', which has no unit; leave it out")
        _check_dialect(self)
        self._refuse_what_is_not_read()

    def _refuse_what_is_not_read(self) -> None:
        """`ValueError` for the first key that is set and that the adapter does not look at."""
        reads = READ_BY.get(self.adapter, set())  # an unknown adapter is `make_adapters`' to name
        for key in _set_keys(self) if self.adapter in READ_BY else ():
            if key not in reads and key.partition(".")[0] not in reads:
                others = ", ".join(sorted(reads - {"interactions", "items", "urls"}))
                raise ValueError(
                    f"{key}: source {self.name!r} has adapter {self.adapter!r}, which does not read this key; leave "
                    "it out" + (f" (it reads {others})" if others else "")
                )
        for which, needed in COLUMNS_OF.items():
            for name, value in vars(getattr(self.files, which).columns).items():
                if value is not None and name not in needed:
                    raise ValueError(
                        f"files.{which}.columns.{name}: not read of this file, which gives {', '.join(needed)}"
                    )

    def file(self, which: str) -> FileSpec:
        """What holds for one of the files: its own settings, else the source's, else the defaults, with all columns but
        the time named."""
        of_file: FileSpec = getattr(self.files, which)
        chosen: dict[str, Any] = {
            key: next((v for v in (getattr(of_file, key), getattr(self, key)) if v is not None), "auto")
            for key in _DIALECT
        }
        chosen["delimiter"] = chosen["delimiter"].replace("\\t", "\t")
        header: bool | None = next((value for value in (of_file.header, self.header) if value is not None), True)
        if chosen["format"] == "parquet":
            header, chosen = None, {"format": "parquet"}
        defaults = (
            COLUMN_NAMES if header is not False else {name: str(n) for n, name in enumerate(COLUMNS_OF[which], 1)}
        )
        names = {
            name: next(
                (v for v in (getattr(of_file.columns, name), getattr(self.columns, name)) if v is not None),
                defaults.get(name),
            )
            for name in COLUMNS_OF[which]
        }
        return FileSpec(columns=ColumnsSpec(**names), header=header, member=of_file.member, **chosen)


_DIALECT = ("format", "delimiter", "quote", "encoding")
_TABLE = {"columns", "format", "delimiter", "quote", "header", "encoding", "files", "order", "time_unit"}
_FILES = {"interactions", "items", "urls"}
# What each adapter looks at, besides what holds for all of them; "columns" stands for all of its keys.
READ_BY: dict[str, set[str]] = {
    "table": _FILES | _TABLE,
    **dict.fromkeys(("amazon2014", "amazon2018", "amazon2023", "movielens"), _FILES),
    "ninerec": _FILES | {"columns.user", "columns.item", "language", "order", "time_unit"},
    "tfds": {"interactions", "items", "columns", "order", "time_unit", "tfds_split"},
    "synthetic": set(),
}
_OF_ALL = {"name", "role", "adapter", "platform", "split", "k_core"}


def _set_keys(section: Any, prefix: str = "") -> Iterator[str]:
    """The keys of a section, dotted below it, that do not have their default."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _set_keys(value, f"{prefix}{field.name}.")
        elif (f"{prefix}{field.name}" not in _OF_ALL and value and value != field.default) or value is False:
            yield f"{prefix}{field.name}"
