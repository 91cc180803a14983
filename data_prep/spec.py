"""What `config.corpus` may say: frozen dataclasses, checked where they are made."""

import dataclasses
import datetime
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cprec_jax.errors import UserError, shown
from cprec_jax.paths import refuse_address
from cprec_jax.spec import build, within

Role = Literal["pretrain", "downstream"]
Order = Literal["timestamp", "position"]
Split = Literal["time", "leave_one_out"]
FILES = ("interactions", "items")
PROTOCOLS = ("u20", "u100", "p20")
INTEGER, BIGINT = 2**31 - 1, 2**62  # what the columns of `sql/tables.sql` hold
MOST_OF_A_NAME = 100  # bytes: a file name has 255, and ours say more than the source's name
MOST_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class ColumnsSpec:
    """Column names in the source files, or their places "1", "2", ... in a file without a header line.

    Without a name they are `user_id`, `item_id`, `title`, and `timestamp`, or `position` where there is only that; without a header line
    the columns of the interactions are user, item, time, those of the items are item, title.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    title: str | None = None

    def named(self) -> dict[str, str]:
        """Those that have a name."""
        return {key: name for key, name in vars(self).items() if name is not None}


COLUMN_NAMES = {"user": "user_id", "item": "item_id", "title": "title"}
COLUMNS_OF = {"interactions": ("user", "item", "time"), "items": ("item", "title")}  # in the order of a file without a header line


def _check_dialect(made: "FileSpec | SourceSpec") -> None:
    if made.delimiter is not None and made.delimiter != "auto":
        text = made.delimiter.replace("\\t", "\t")
        if not 1 <= len(text.encode()) <= 4 or any(c in "\r\n\0\"'" for c in text):
            raise ValueError(f"delimiter {made.delimiter!r}: one to four bytes are needed, no quote and no line break")
    if made.quote not in (None, "auto", "none") and (len(made.quote) != 1 or not made.quote.isascii() or made.quote in "\r\n\0\t "):
        raise ValueError(f"quote {made.quote!r}: write 'auto', 'none' or one character such as '\"'")
    if made.encoding not in (None, "auto"):
        try:
            "a".encode(made.encoding)
        except (LookupError, ValueError):
            raise ValueError(f"encoding {made.encoding!r}: not known; write 'auto', 'utf-8', 'utf-16', 'cp1252', 'latin-1', ...") from None
    if made.format == "parquet":
        for name in ("delimiter", "quote", "header", "encoding"):
            if getattr(made, name) is not None:
                raise ValueError(f"{name}: a Parquet file has none; leave it out, or set it under `files` for the other file")


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """How one file of a table is written, where it differs from what the source says of both.

    delimiter: between two fields, up to four bytes ("\\t" is a tab); "auto" is that of the format, or another under which the header line
    has the columns. quote: the character round fields that hold a delimiter ("auto": `"` but for TSV), or "none". encoding: "auto" is
    UTF-8, or UTF-16 or UTF-32 where the file says so; else a name such as "cp1252" or "latin-1". member: which file of a zip archive.
    """

    columns: ColumnsSpec = ColumnsSpec()
    format: Literal["auto", "csv", "tsv", "parquet"] | None = None
    delimiter: str | None = None
    quote: str | None = None
    header: bool | None = None
    encoding: str | None = None
    member: str | None = None

    def __post_init__(self) -> None:
        _check_dialect(self)


@dataclass(frozen=True, kw_only=True)
class FilesSpec:
    """Settings of one of the two files alone; they win over the source's."""

    interactions: FileSpec = FileSpec()
    items: FileSpec = FileSpec()


@dataclass(frozen=True, kw_only=True)
class RemoteSpec:
    """Where a file can be had with `config.corpus.download=true`.

    `sha256` or `md5` is that of what lies at `url`, or `checksum_url` leads to a small text that holds it; without any the file is taken as
    it comes and its SHA-256 is printed. `member` is the file to take out of a zip archive.
    """

    url: str
    sha256: str | None = None
    md5: str | None = None
    checksum_url: str | None = None
    member: str | None = None

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
    """One domain: where its interactions and titles are, and what it is for.

    Users are the same person over all sources of one `platform` that share a raw user id. `interactions` and `items` are one file each; the
    adapter `table` takes a list of files, too, or a directory, which is all its `*.parquet` in the order of their names. `order` says what
    the time column holds ("auto": a column called `position` holds order only), `time_unit` is that of numbers (default s). `format`,
    `delimiter`, `quote`, `header` and `encoding` are of both files (see `files`, which says the same of one). `split` and `k_core` override
    the corpus-wide value. `language` chooses between the titles of a platform that publishes several (NineRec; default English). `urls`
    says where the files `interactions` and `items` can be had. `tfds_split` is the split of a TFDS dataset whose interactions are read
    (default train). A key that the adapter does not read is refused.
    """

    name: str
    role: Role
    adapter: str = "table"
    platform: str = "default"
    interactions: str | tuple[str, ...] | None = None
    items: str | tuple[str, ...] | None = None
    columns: ColumnsSpec = ColumnsSpec()
    format: Literal["auto", "csv", "tsv", "parquet"] = "auto"
    delimiter: str | None = None
    quote: str | None = None
    header: bool | None = None
    encoding: str | None = None
    files: FilesSpec = FilesSpec()
    order: Literal["auto", "timestamp", "position"] = "auto"
    time_unit: Literal["s", "ms"] | None = None
    split: Literal["auto", "time", "leave_one_out"] | None = None
    k_core: int | None = None
    language: Literal["en", "zh"] | None = None
    tfds_split: str | None = None
    urls: dict[str, RemoteSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for which in self.urls:
            if which not in FILES or not isinstance(getattr(self, which), str):
                raise ValueError(
                    f"urls.{which}: urls are for 'interactions' and 'items', where the source names such a file (one, no list)"
                )
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise ValueError(f"name {self.name!r} becomes a file name: use letters, digits, '-' and '_'")
        if len(self.name.encode()) > MOST_OF_A_NAME:
            raise ValueError(f"name {self.name[:20]!r}... becomes a file name: at most {MOST_OF_A_NAME} bytes are possible")
        within(self, 0, INTEGER, "k_core")
        if self.split == "time" and self.order == "position":
            raise ValueError(f"source {self.name!r} has order 'position', which cannot be split by time; use split='leave_one_out'")
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
                    f"{key}: source {self.name!r} has adapter {self.adapter!r}, which does not read this key; leave it out"
                    + (f" (it reads {others})" if others else "")
                )
        for which, needed in COLUMNS_OF.items():
            for name, value in vars(getattr(self.files, which).columns).items():
                if value is not None and name not in needed:
                    raise ValueError(f"files.{which}.columns.{name}: not read of this file, which gives {', '.join(needed)}")

    def file(self, which: str) -> FileSpec:
        """What holds for one of the files: its own settings, else the source's, else the defaults, with all columns but the time named."""
        own: FileSpec = getattr(self.files, which)
        chosen: dict[str, Any] = {
            key: next((v for v in (getattr(own, key), getattr(self, key)) if v is not None), "auto") for key in _DIALECT
        }
        chosen["delimiter"] = chosen["delimiter"].replace("\\t", "\t")
        header: bool | None = next((value for value in (own.header, self.header) if value is not None), True)
        if chosen["format"] == "parquet":
            header, chosen = None, {"format": "parquet"}
        defaults = COLUMN_NAMES if header is not False else {name: str(n) for n, name in enumerate(COLUMNS_OF[which], 1)}
        names = {
            name: next((v for v in (getattr(own.columns, name), getattr(self.columns, name)) if v is not None), defaults.get(name))
            for name in COLUMNS_OF[which]
        }
        return FileSpec(columns=ColumnsSpec(**names), header=header, member=own.member, **chosen)


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


def _set_keys(made: Any, prefix: str = "") -> Iterator[str]:
    """The keys of a section, dotted below it, that do not have their default."""
    for one in dataclasses.fields(made):
        value = getattr(made, one.name)
        if dataclasses.is_dataclass(value):
            yield from _set_keys(value, f"{prefix}{one.name}.")
        elif (f"{prefix}{one.name}" not in _OF_ALL and value and value != one.default) or value is False:
            yield f"{prefix}{one.name}"


@dataclass(frozen=True, kw_only=True)
class TimesSpec:
    """Split times of one platform: unix seconds, or an ISO date (UTC)."""

    t1: int | str
    t2: int | str

    def __post_init__(self) -> None:
        for name, value in zip(("t1", "t2"), self.seconds, strict=True):
            if abs(value) > BIGINT:
                raise ValueError(f"{name} = {value} is no time in seconds")
        if not self.seconds[0] < self.seconds[1]:
            raise ValueError(f"t1 = {self.t1} must be before t2 = {self.t2}")

    @property
    def seconds(self) -> tuple[int, int]:
        return _unix_seconds(self.t1), _unix_seconds(self.t2)


def _unix_seconds(value: int | str) -> int:
    if isinstance(value, int):
        return value
    try:
        moment = datetime.datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{value!r} is neither unix seconds nor an ISO date such as '2014-01-05'") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp())


@dataclass(frozen=True, kw_only=True)
class KCoreSpec:
    """Fewest training interactions a user and an item need to stay in the training sequences; 0 switches the filter off."""

    pretrain: int = 5
    downstream: int = 5

    def __post_init__(self) -> None:
        within(self, 0, INTEGER, "pretrain", "downstream")


@dataclass(frozen=True, kw_only=True)
class TitlesSpec:
    """`merge`: items of one domain with the same clean title become one; `distinguish`: their item id is appended.

    keep_null_words: take `nan`, `null`, `none`, `n/a` and the like (`data_prep.titles.NULL_WORDS`) for titles; else they are none.
    """

    policy: Literal["merge", "distinguish"] = "merge"
    max_length: int = 300
    keep_null_words: bool = False

    def __post_init__(self) -> None:
        within(self, 1, INTEGER, "max_length")


@dataclass(frozen=True, kw_only=True)
class CandidatesSpec:
    protocols: tuple[str, ...] = PROTOCOLS
    seed: int = 0

    def __post_init__(self) -> None:
        for protocol in self.protocols:
            if protocol[:1] not in ("u", "p") or not protocol[1:].isdigit() or int(protocol[1:]) < 2:
                raise ValueError(f"protocol {protocol!r}: write u20 (uniform) or p20 (popularity-matched), with any number of candidates")
            if int(protocol[1:]) > INTEGER:
                raise ValueError(f"protocol {protocol!r}: at most {INTEGER} candidates are possible")
            if self.protocols.count(protocol) > 1:
                raise ValueError(f"protocol {protocol!r} is listed twice")


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """The generated world of all sources with adapter `synthetic`; see `data_prep/adapters/synthetic.py` for what the numbers do."""

    users: int = 4000
    items: int = 300
    interactions: float = 25.0
    tastes: int = 20
    favourites: int = 3
    stay: float = 0.5
    popularity: float = 0.4
    start: int = 1_600_000_000
    days: int = 365

    def __post_init__(self) -> None:
        within(self, 1, INTEGER, "users", "items", "tastes", "favourites", "days", "interactions")
        within(self, 0, 2**40, "start")
        if not 0 <= self.stay <= 1:
            raise ValueError(f"stay {self.stay} is a probability")
        if self.favourites > self.tastes:
            raise ValueError(f"favourites {self.favourites} is more than tastes {self.tastes}")


@dataclass(frozen=True, kw_only=True)
class SparkSpec:
    """Where Spark runs with `engine="spark"`: `master` is `local[*]`, `local[4]` or `spark://HOST:PORT`.

    `conf` are further settings as "spark.key=value"; they win over ours. `memory_limit` is the driver's heap.
    """

    master: str = "local[*]"
    conf: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.master.startswith(("local", "spark://", "yarn", "k8s://")):
            raise ValueError(f"master {self.master!r}: write local[*], spark://HOST:PORT, yarn or k8s://...")
        for setting in self.conf:
            key, equals, _ = setting.partition("=")
            if not equals or not key.startswith("spark."):
                raise ValueError(f"conf {setting!r}: write 'spark.key=value'")

    @property
    def settings(self) -> dict[str, str]:
        return dict(setting.split("=", 1) for setting in self.conf)


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """The whole section. See `docs/data-formats.md`.

    Paths of the sources are relative to `root`; `explain` adds explain.md; `download` fetches missing files that have a URL, otherwise
    nothing touches the network; `engine` runs the relational steps and changes nothing in the result.
    ties: how interactions of one user at one time are ordered; `hash` by a seeded hash, `file` as the source lists them, which leaks
    wherever that order knows something (Amazon 2014: ascending item ids) and is there to reproduce published figures.
    max_bad_lines: more lines of one file that cannot be read are an error. max_lost_share: so is a larger share of a source's interactions,
    or of its items, that is refused for whatever reason; above a tenth it is a warning.
    """

    sources: tuple[SourceSpec, ...]
    root: str = "."
    synthetic: SyntheticSpec = SyntheticSpec()
    split: Literal["auto", "time", "leave_one_out"] = "auto"
    quantiles: tuple[float, ...] = (0.8, 0.9)
    times: dict[str, TimesSpec] = field(default_factory=dict)
    k_core: int | KCoreSpec = KCoreSpec()
    min_history: int = 1
    ties: Literal["hash", "file"] = "hash"
    titles: TitlesSpec = TitlesSpec()
    candidates: CandidatesSpec = CandidatesSpec()
    max_test_users: int | None = None
    max_valid_users: int | None = None
    exclude_test_users: bool = False
    max_bad_lines: int = 1000
    max_lost_share: float = 0.5
    seed: int = 0
    memory_limit: str = "4GB"
    threads: int | None = None
    explain: bool = False
    download: bool = False
    engine: Literal["duckdb", "spark"] = "duckdb"
    spark: SparkSpec = SparkSpec()

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; name at least one source")
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"source name {name!r} is used twice; every source needs its own name")
        if len(self.quantiles) != 2 or not 0 < self.quantiles[0] < self.quantiles[1] < 1:
            raise ValueError(f"quantiles {self.quantiles} must be two rising numbers between 0 and 1")
        platforms = {source.platform for source in self.sources}
        for platform in self.times:
            if platform not in platforms:
                raise ValueError(f"times names platform {platform!r}, but the sources' platforms are {', '.join(sorted(platforms))}")
        within(self, 1, INTEGER, "min_history")  # a target needs a history
        within(self, -BIGINT, BIGINT, "seed")
        within(self, 0, BIGINT, "max_test_users", "max_valid_users", "max_bad_lines")
        within(self, 0, 1, "max_lost_share")
        within(self, 1, MOST_THREADS, "threads")
        if isinstance(self.k_core, int):
            within(self, 0, INTEGER, "k_core")

    def k_core_of(self, source: SourceSpec) -> int:
        if source.k_core is not None:
            return source.k_core
        return self.k_core if isinstance(self.k_core, int) else getattr(self.k_core, source.role)

    def split_of(self, source: SourceSpec, order: Order) -> Split:
        """The split a source gets: its own choice, else the corpus's; "auto" is leave-one-out where there is only order."""
        wanted = source.split or self.split
        if wanted == "auto":
            return "leave_one_out" if order == "position" else "time"
        if wanted == "time" and order == "position":
            raise UserError(
                f"config.corpus.sources.{source.name}.split: 'time' needs timestamps, but the file has only positions; use 'leave_one_out'"
            )
        return wanted

    def fingerprint_fields(self) -> dict[str, Any]:
        """Everything that decides the corpus's content: not where files lie, nor which engine runs with how much memory."""
        fields = dataclasses.asdict(self)
        for name in ("root", "memory_limit", "threads", "explain", "download", "engine", "spark", "max_lost_share"):
            del fields[name]
        if not self.titles.keep_null_words:
            del fields["titles"]["keep_null_words"]
        if self.ties == "hash":  # so that corpora made before there was a choice keep their hash
            del fields["ties"]
        for source in fields["sources"]:
            del source["interactions"], source["items"], source["urls"]
            # So that corpora made before there was a choice keep their hash.
            source["columns"] = {name: value or COLUMN_NAMES.get(name) for name, value in source["columns"].items()}
            source["time_unit"] = source["time_unit"] or "s"
            for name in ("language", "tfds_split", "delimiter", "quote", "header", "encoding"):
                if source[name] is None:
                    del source[name]
            if source["files"] == dataclasses.asdict(FilesSpec()):
                del source["files"]
        return fields


def corpus_spec(config: Mapping[str, Any]) -> CorpusSpec:
    """Read `config["corpus"]`. `sources` may be a list, or a mapping from name to the rest (easier to override from a command line)."""
    if "corpus" not in config:
        raise UserError("config.corpus: missing; `prepare` needs a section that names its sources")
    section = dict(config["corpus"])
    sources = section.get("sources", ())
    if isinstance(sources, Mapping):
        sources = [{"name": name, **dict(source)} for name, source in sources.items()]
    section["sources"] = [dict(source) if isinstance(source, Mapping) else source for source in sources]
    return build(CorpusSpec, section, "config.corpus")


def target_paths(root: str, source: SourceSpec, which: str) -> list[Path]:
    """The paths a source gives for its interactions or its items, below `root`, `~` expanded; absent in the config is a `UserError`.

    A path is taken as it stands: no character of it is a pattern, and a file of that very name wins over a home directory.
    """
    given = getattr(source, which)
    where = f"config.corpus.sources.{source.name}.{which}"
    if not given:
        raise UserError(f"{where}: missing; give the path of the file")
    refuse_address(root, "config.corpus.root")
    paths = []
    for one in (given,) if isinstance(given, str) else given:
        try:
            base = Path(root).expanduser()
            is_there = os.path.exists(base / one)  # and False for a name that no file can have
            if not is_there:
                refuse_address(one, where)
            paths.append(base / one if is_there else base / Path(one).expanduser())
        except RuntimeError:  # "~nobody"
            raise UserError(f"{where}: no such home directory in {one!r} or root {root!r}") from None
    return paths


def target_path(root: str, source: SourceSpec, which: str) -> Path:
    """`target_paths` where only one can be: a list of files is a `UserError`."""
    paths = target_paths(root, source, which)
    if len(paths) > 1:
        raise UserError(f"config.corpus.sources.{source.name}.{which}: adapter {source.adapter!r} reads one file here, not {len(paths)}")
    return paths[0]


def source_path(root: str, source: SourceSpec, which: Literal["interactions", "items"]) -> Path:
    """`target_path` of a file that must be there; absent on disk is a `UserError`."""
    return _present(target_path(root, source, which), source, which)


def source_paths(root: str, source: SourceSpec, which: Literal["interactions", "items"]) -> list[Path]:
    """`target_paths` of files that must be there. A directory stands for all its `*.parquet`, in the order of their names."""
    paths: list[Path] = []
    for path in target_paths(root, source, which):
        paths += _parts(path, source, which) if os.path.isdir(path) else [_present(path, source, which)]
    return paths


def _parts(folder: Path, source: SourceSpec, which: str) -> list[Path]:
    """As Spark and pyarrow read a directory: what begins with "." or "_" is no part. Names of folders say nothing of their content."""
    parts = sorted(path for path in folder.iterdir() if path.name.endswith(".parquet") and path.name[0] not in "._" and path.is_file())
    where = f"config.corpus.sources.{source.name}.{which}"
    if below := sorted(path for path in folder.glob("*/*.parquet") if path.parent.name[0] not in "._"):
        raise UserError(
            f"{where}: {shown(folder)} has parts in {shown(below[0].parent.name)}, too, and no folder below is read; list the files"
        )
    if not parts:
        raise UserError(f"{where}: {shown(folder)} is a directory without a *.parquet file; give a file, or a list of files")
    return parts


def _present(path: Path, source: SourceSpec, which: str) -> Path:
    if not os.path.isfile(path):
        where = f"config.corpus.sources.{source.name}.{which}"
        fetched = f", or fetch it with config.corpus.download=true from {source.urls[which].url}" if which in source.urls else ""
        raise UserError(f"{where}: {shown(path)} is not a file; check the path and config.corpus.root{fetched}")
    return path
