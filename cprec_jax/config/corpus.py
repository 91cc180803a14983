"""`config.corpus`: sources, splits and filters."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cprec_jax.config.build import within
from cprec_jax.config.setting import setting
from cprec_jax.config.source import INTEGER, Order, SourceSpec, Split
from cprec_jax.errors import UserError

PROTOCOLS = ("u20", "u100", "p20")
BIGINT = 2**62  # what the columns of `sql/tables.sql` hold
MOST_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class TimesSpec:
    """Split times of one platform: unix seconds, or an ISO date (UTC)."""

    t1: int | str = setting(help="end of the training period")
    t2: int | str = setting(help="end of the validation period")

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
    """The fewest training interactions per user and per item. Who has fewer leaves the training sequences; 0 is off."""

    pretrain: int = setting(5, "of domains")
    downstream: int = setting(5, "of sets")

    def __post_init__(self) -> None:
        within(self, 0, INTEGER, "pretrain", "downstream")


@dataclass(frozen=True, kw_only=True)
class TitlesSpec:
    """How titles are cleaned."""

    policy: Literal["merge", "distinguish"] = setting(
        "merge",
        "merge: items of one domain with the same clean title become one; distinguish: their item id is appended",
    )
    max_length: int = setting(300, "characters; longer titles are cut")
    keep_null_words: bool = setting(False, "take nan, null, none, n/a and the like for titles; else they are none")

    def __post_init__(self) -> None:
        within(self, 1, INTEGER, "max_length")


@dataclass(frozen=True, kw_only=True)
class CandidatesSpec:
    protocols: tuple[str, ...] = setting(
        PROTOCOLS, "lists of candidates: u20 (uniform), p20 (popularity-matched), with any number"
    )
    seed: int = setting(0, "of the drawing")

    def __post_init__(self) -> None:
        for protocol in self.protocols:
            if protocol[:1] not in ("u", "p") or not protocol[1:].isdigit() or int(protocol[1:]) < 2:
                raise ValueError(
                    f"protocol {protocol!r}: write u20 (uniform) or p20 (popularity-matched), with any number of "
                    "candidates"
                )
            if int(protocol[1:]) > INTEGER:
                raise ValueError(f"protocol {protocol!r}: at most {INTEGER} candidates are possible")
            if self.protocols.count(protocol) > 1:
                raise ValueError(f"protocol {protocol!r} is listed twice")


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """The generated world of all sources with adapter `synthetic`; see `data_prep/adapters/synthetic.py`."""

    users: int = setting(4000, "of the whole world")
    items: int = setting(300, "per domain")
    interactions: float = setting(25.0, "per user and domain, on average")
    tastes: int = setting(20, "that titles and users may have")
    favourites: int = setting(3, "tastes per user")
    stay: float = setting(0.5, "probability that the next item has the taste of the last")
    popularity: float = setting(0.4, "exponent of the items' popularity")
    start: int = setting(1_600_000_000, "unix seconds of the first day")
    days: int = setting(365, "length of the period")

    def __post_init__(self) -> None:
        within(self, 1, INTEGER, "users", "items", "tastes", "favourites", "days", "interactions")
        within(self, 0, 2**40, "start")
        if not 0 <= self.stay <= 1:
            raise ValueError(f"stay {self.stay} is a probability")
        if self.favourites > self.tastes:
            raise ValueError(f"favourites {self.favourites} is more than tastes {self.tastes}")


@dataclass(frozen=True, kw_only=True)
class SparkSpec:
    """Where Spark runs with `engine="spark"`. `memory_limit` is the driver's heap."""

    master: str = setting("local[*]", "local[*], local[4], spark://HOST:PORT, yarn or k8s://...", affects=())
    conf: tuple[str, ...] = setting((), 'further settings as "spark.key=value"; they win over ours', affects=())

    def __post_init__(self) -> None:
        if not self.master.startswith(("local", "spark://", "yarn", "k8s://")):
            raise ValueError(f"master {self.master!r}: write local[*], spark://HOST:PORT, yarn or k8s://...")
        for given in self.conf:
            key, equals, _ = given.partition("=")
            if not equals or not key.startswith("spark."):
                raise ValueError(f"conf {given!r}: write 'spark.key=value'")

    @property
    def settings(self) -> dict[str, str]:
        return dict(given.split("=", 1) for given in self.conf)


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """Sources, and how their interactions become sequences. See `docs/data-formats.md`."""

    sources: tuple[SourceSpec, ...] = setting(
        help="one per domain or set: a list, or a mapping from the name to the rest"
    )
    root: str = setting(".", "where paths of the sources begin", affects=())
    synthetic: SyntheticSpec = setting(SyntheticSpec(), "the generated world")
    split: Literal["auto", "time", "leave_one_out"] = setting(
        "auto", "time: one global pair of times per platform; leave_one_out (auto: time where there are times)"
    )
    quantiles: tuple[float, ...] = setting((0.8, 0.9), "of a platform's times, where `times` does not give them")
    times: dict[str, TimesSpec] = setting(factory=dict, help="split times per platform, {PLATFORM: {t1: ..., t2: ...}}")
    k_core: int | KCoreSpec = setting(
        KCoreSpec(), "fewest training interactions of a user and an item, for all or by role; 0 is off"
    )
    min_history: int = setting(1, "items before a target")
    ties: Literal["hash", "file"] = setting(
        "hash", "order of interactions of one user at one time: by a seeded hash, or as in the file, which leaks"
    )
    titles: TitlesSpec = setting(TitlesSpec(), "cleaning of titles")
    candidates: CandidatesSpec = setting(CandidatesSpec(), "lists of sampled candidates")
    max_test_users: int | None = setting(None, "per set, a seeded choice (None: all)")
    max_valid_users: int | None = setting(None, "per set, a seeded choice (None: all)")
    exclude_test_users: bool = setting(False, "test users are not trained on")
    max_bad_lines: int = setting(1000, "more lines of one file that cannot be read are an error", affects=())
    max_lost_share: float = setting(
        0.5,
        "a larger refused share of a source's interactions or items is an error; above a tenth it is a warning",
        affects=(),
    )
    seed: int = setting(0, "of every choice")
    memory_limit: str = setting("4GB", "of the engine", affects=())
    threads: int | None = setting(None, "of the engine (None: all cores)", affects=())
    explain: bool = setting(False, "adds explain.md, a picture of the corpus", affects=())
    download: bool = setting(
        False, "fetch missing files that have a URL; otherwise nothing touches the network", affects=()
    )
    engine: Literal["duckdb", "spark"] = setting(
        "duckdb", "runs the relational steps, and changes nothing in the result", affects=()
    )
    spark: SparkSpec = setting(SparkSpec(), "where Spark runs", affects=())

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
                raise ValueError(
                    f"times names platform {platform!r}, but the sources' platforms are {', '.join(sorted(platforms))}"
                )
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
        """The split a source gets: its own choice, else the corpus's; "auto" is leave-one-out where there is only
        order."""
        wanted = source.split or self.split
        if wanted == "auto":
            return "leave_one_out" if order == "position" else "time"
        if wanted == "time" and order == "position":
            raise UserError(
                f"config.corpus.sources.{source.name}.split: 'time' needs timestamps, but the file has only "
                "positions; use 'leave_one_out'"
            )
        return wanted

    @classmethod
    def complete(cls, section: Mapping[str, Any]) -> dict[str, Any]:
        """`sources` may be a mapping from name to the rest, which is easier to override from a command line."""
        section = dict(section)
        sources = section.get("sources", ())
        if isinstance(sources, Mapping):
            sources = [
                {"name": name, **source} if isinstance(source, Mapping) else source for name, source in sources.items()
            ]
        return {**section, "sources": sources} if "sources" in section else section
