"""Step 1: adapters read each source, and its ids become numbers."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from cprec_jax.config.source import READ_BY, Order
from cprec_jax.progress import say
from data_prep.adapters import Adapter
from data_prep.adapters.times import EARLY
from data_prep.engine import Engine, quoted
from data_prep.losses import say_decimal_ids, say_null_ids
from data_prep.steps.ledger import Ledger

NO_LIMIT = 2**62


@dataclass(frozen=True, kw_only=True)
class ReadSource:
    """How a source was read. `rows`: how many `interactions` and `items` its files gave."""

    order: Order
    split: str
    rows: dict[str, int]


def read_source(ledger: Ledger, adapters: Mapping[str, Adapter], domain: int) -> ReadSource:
    """Read the files of source number `domain` into the loader's tables, and say what is odd about its ids and
    times."""
    spec, loader, rejects = ledger.spec, ledger.engine.loader, ledger.rejects
    source = spec.sources[domain]
    rejects.source, rejects.reads = source.name, READ_BY.get(source.adapter, set())
    order = adapters[source.adapter].load(source, domain, loader, rejects)
    split = spec.split_of(source, order)
    limits = (NO_LIMIT if limit is None else limit for limit in (spec.max_valid_users, spec.max_test_users))
    values = [
        str(domain),
        *map(quoted, (source.name, source.role, source.platform, order, split)),
        "NULL",
        "NULL",
        *map(str, (spec.k_core_of(source), spec.seed, spec.min_history, *limits)),
        quoted(spec.ties),
        str(spec.titles.max_length),
    ]
    loader.execute(f"INSERT INTO sources VALUES ({', '.join(values)})")
    rows = {
        which: loader.value(f"SELECT count(*) FROM raw_{which} WHERE domain = {domain}")
        for which in ("interactions", "items")
    }
    if order == "timestamp":
        _say_if_early(loader, domain, source.name)
    loader.script("encode")
    say_null_ids(loader, domain, source.name, rows["interactions"])
    say_decimal_ids(loader, domain, source.name)
    return ReadSource(order=order, split=split, rows=rows)


def _say_if_early(loader: Engine, domain: int, name: str) -> None:
    first, last = loader.rows(f"SELECT min(time), max(time) FROM raw_interactions WHERE domain = {domain}")[0]
    if last is not None and last < EARLY:
        days = [str(datetime.datetime.fromtimestamp(seconds, datetime.UTC).date()) for seconds in (first, last)]
        say(
            f"{name}: its times are of {days[0]} to {days[1]}, if they are unix seconds; does time_unit say what they "
            "are?"
        )
