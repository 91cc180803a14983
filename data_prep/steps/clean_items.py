"""Step 2: titles are cleaned, and each item of the catalogue gets one title and one number."""

from collections import Counter
from typing import Any

import pyarrow as pa

from cprec_jax.config.corpus import TitlesSpec
from cprec_jax.errors import UserError
from data_prep.engine import Engine, Relational, quoted
from data_prep.losses import UNTITLED
from data_prep.steps.ledger import Ledger
from data_prep.titles import NULL_WORDS, PLAIN_TITLE, clean_titles, count_plain_titles

# What the steps of the engine need of the loader's tables.
SHARED = ("sources", "read_interactions", "read_places", "read_users", "read_items", "clean_items")


def clean_items(ledger: Ledger) -> dict[str, Any]:
    """Make the table `catalogue` from the raw items; returns what the manifest says under `titles`.

    A catalogue in which one title stands for two items, or that has no room for item ids, is a `UserError`.
    """
    titles, engine = ledger.spec.titles, ledger.engine
    counts: Counter[str] = Counter()
    null_words = _clean(engine.loader, titles, counts)
    engine.share(*SHARED)
    _reject_items(ledger)
    engine.script("titled_items")
    shared = ledger.by_domain(
        "SELECT domain, sum(n), sum(n - 1) FROM (SELECT domain, count(*) AS n FROM titled_items GROUP BY domain, "
        "title) AS t "
        "GROUP BY domain",
        2,
    )
    counts["items sharing another's title"] = sum(again for _, again in shared)
    merged = [again if titles.policy == "merge" else 0 for _, again in shared]
    ledger.accounts.count_items(engine.loader, null_words, [n for n, _ in shared], merged)
    engine.script(f"items_{titles.policy}")
    n_appended = _count_appended(engine, titles.max_length, counts) if titles.policy == "distinguish" else 0
    engine.script("catalogue")
    _refuse_equal_titles(engine)
    return {
        "policy": titles.policy,
        "max_length": titles.max_length,
        "appended": {"item_id": n_appended} if n_appended else {},
        **dict(sorted(counts.items())),
    }


def _clean(loader: Engine, spec: TitlesSpec, counts: Counter[str]) -> dict[int, tuple[int, str]]:
    """raw_items -> clean_items. Plain titles stay in the engine; all others pass through Python.

    Returns by domain how many titles are words for nothing, and one of them.
    """
    null_list = ", ".join(map(quoted, NULL_WORDS))
    is_null = "false" if spec.keep_null_words else f"trim(lower(title)) IN ({null_list})"
    plain = (
        f"regexp_full_match(title, {quoted(PLAIN_TITLE)}) AND strlen(title) <= {spec.max_length} AND NOT ({is_null})"
    )
    null_words = loader.rows(f"SELECT domain, count(*), min(title) FROM raw_items WHERE {is_null} GROUP BY domain")
    n_plain = loader.value(f"INSERT INTO clean_items SELECT domain, item_id, title FROM raw_items WHERE {plain}")
    count_plain_titles(n_plain, counts)
    for batch in loader.batches(f"SELECT domain, item_id, title FROM raw_items WHERE ({plain}) IS NOT TRUE"):
        titles = clean_titles(batch["title"].to_pylist(), spec.max_length, counts, spec.keep_null_words)
        cleaned = pa.table(
            {"domain": batch["domain"], "item_id": batch["item_id"], "title": pa.array(titles, pa.string())}
        )
        loader.insert("clean_items", cleaned.column_names, cleaned)
    loader.execute("DROP TABLE raw_items")
    return {domain: (n, title) for domain, n, title in null_words}


def _reject_items(ledger: Ledger) -> None:
    ledger.reject(
        UNTITLED,
        "SELECT s.name || ' ' || i.item_id FROM clean_items i JOIN sources s ON i.domain = s.domain WHERE i.title IS "
        "NULL",
    )
    ledger.reject(
        "item listed more than once",
        "SELECT s.name || ' ' || i.item_id || ' (' || count(*) || ' times, ' || count(DISTINCT i.title) || ' "
        "titles; one kept)' "
        "FROM clean_items i JOIN sources s ON i.domain = s.domain GROUP BY s.name, i.item_id HAVING count(*) > 1",
        "SELECT count(*) FROM (SELECT item_id FROM clean_items GROUP BY domain, item_id HAVING count(*) > 1) AS t",
    )


def _count_appended(engine: Relational, max_length: int, counts: Counter[str]) -> int:
    """How many titles got their item id appended; those cut for it go to `counts`. No room for an id: `UserError`."""
    appended = (
        "FROM item_names n JOIN titled_items t ON n.domain = t.domain AND n.item_id = t.item_id WHERE n.title <> "
        "t.title"
    )
    n_appended = int(engine.value(f"SELECT count(*) {appended}"))
    n_cut = engine.value(f"SELECT count(*) {appended} AND length(n.title) < length(t.title) + length(n.item_id) + 3")
    if n_cut:
        counts["cut for the item id"] = n_cut
    too_long = engine.rows(f"SELECT n.item_id {appended} AND length(n.title) > {max_length} LIMIT 1")
    if too_long:
        raise UserError(
            f"config.corpus.titles.max_length: {max_length} has no room for a title and the item id "
            f"{too_long[0][0]!r}; raise it"
        )
    return n_appended


def _refuse_equal_titles(engine: Relational) -> None:
    clash = engine.rows("SELECT domain, title FROM catalogue GROUP BY domain, title HAVING count(*) > 1 LIMIT 1")
    if clash:
        raise UserError(
            f"config.corpus.titles.policy: {clash[0][1]!r} occurs twice even with item ids appended; use 'merge'"
        )
