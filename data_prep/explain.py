"""A picture of the corpus in Markdown, for the eyes: `--config.corpus.explain=true` prints it and writes it to
corpus/explain.md.

Everything is counted by the engine, so a large corpus never sits in Python's memory.
"""

import datetime
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cprec_jax.config.text import TemplateSpec
from data_prep.engine import Relational

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
TOP_SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
BINS = 24
BAR = 50  # characters of the longest bar
EXAMPLES = 2  # sequences shown per domain
EXAMPLE_ITEMS = 8  # the most recent ones


def explain(engine: Relational, manifest: Mapping[str, Any], template: TemplateSpec) -> str:
    """The picture, from the tables that `run_steps` left in the engine and the manifest that it returned."""
    parts = [
        ["# The corpus"],
        _sets(manifest),
        _filters(manifest),
        _refused(manifest),
        _lengths(engine, manifest),
        _domains_of_users(engine),
        _overlap(engine, manifest),
        _popularity(engine, manifest),
        _times(engine, manifest),
        _examples(engine, manifest, template),
    ]
    return "\n".join("\n".join(part) + "\n" for part in parts if part)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [[_cell(value) for value in row] for row in [head, *rows]]
    return [_row(cells[0]), _row(["---"] + ["---:"] * (len(head) - 1)), *map(_row, cells[1:])]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1f}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.1f} %" if total else "-"


def _sets(manifest: Mapping[str, Any]) -> list[str]:
    keys = (
        "role",
        "split",
        "n_items",
        "n_valid_users",
        "n_test_users",
        "n_test_untied",
        "n_test_targets_never_trained",
    )
    head = (
        "domain",
        "role",
        "split",
        "items",
        "validation users",
        "test users",
        "untied targets",
        "targets never trained on",
    )
    return [
        "## Domains",
        "",
        *_table(head, [[name, *(info[key] for key in keys)] for name, info in manifest["sets"].items()]),
    ]


def _filters(manifest: Mapping[str, Any]) -> list[str]:
    """Counts before and after every filter."""
    lines = ["## Steps", ""]
    rows: list[list[object]] = []
    for name, steps in manifest["counts"].items():
        before: int | None = None
        for step, counts in steps.items():
            n = counts["interactions"]
            rows.append(
                [f"{name}: {step}", n, "" if before is None else _percent(n, before), counts["users"], counts["items"]]
            )
            before = n
    return lines + _table(("step", "interactions", "of the step before", "users", "items"), rows)


def _refused(manifest: Mapping[str, Any]) -> list[str]:
    rows = [
        [reason, entry["n"], entry["samples"][0] if entry["samples"] else ""]
        for reason, entry in manifest["rejected"].items()
    ]
    return ["## Refused", "", *_table(("reason", "cases", "first"), rows)] if rows else []


def _lengths(engine: Relational, manifest: Mapping[str, Any]) -> list[str]:
    names = manifest["domains"]
    rows: list[list[object]] = []
    for what, table in (("training", "domain_sequences"), ("mixed", "mixed_sequences"), ("test history", "histories")):
        where = "WHERE phase = 2" if table == "histories" else ""
        lengths = f"SELECT domain, array_length(events) AS length FROM {table} {where}"
        lengths_of = engine.rows(
            f"SELECT domain, length, count(*) FROM ({lengths}) AS l GROUP BY domain, length ORDER BY domain, length"
        )
        for domain, rows_of_domain in itertools.groupby(lengths_of, lambda row: row[0]):
            counts = [(length, n) for _, length, n in rows_of_domain]
            total = sum(n for _, n in counts)
            mean = sum(length * n for length, n in counts) / total
            name = f"{names[domain]}: {what}" if domain >= 0 else what
            rows.append([name, total, mean, *(_quantile(counts, q) for q in QUANTILES)])
    head = ("sequences", "number", "mean length", *(("shortest", *(f"{q:.0%}" for q in QUANTILES[1:-1]), "longest")))
    return ["## Lengths of sequences, in items", "", *_table(head, rows)]


def _quantile(counts: Sequence[tuple[int, int]], q: float) -> int:
    """The smallest of the (value, how often), in rising order, that at least a share `q` of all does not exceed."""
    wanted = q * sum(n for _, n in counts)
    upto = itertools.accumulate(n for _, n in counts)
    return next(value for (value, _), so_far in zip(counts, upto, strict=True) if so_far >= wanted - 1e-9)


def _domains_of_users(engine: Relational) -> list[str]:
    per_user = "SELECT user, count(*) AS n FROM domain_sequences GROUP BY user"
    users_by_domains = engine.rows(f"SELECT n, count(*) FROM ({per_user}) AS u GROUP BY n ORDER BY n")
    users = sum(count for _, count in users_by_domains)
    rows = [[n, count, _percent(count, users)] for n, count in users_by_domains]
    return ["## Users by the number of domains they train in", "", *_table(("domains", "users", "share"), rows)]


def _overlap(engine: Relational, manifest: Mapping[str, Any]) -> list[str]:
    names = manifest["domains"]
    shared = (
        "SELECT a.domain, b.domain, count(*) FROM domain_sequences a JOIN domain_sequences b ON a.user = b.user "
        "GROUP BY a.domain, b.domain"
    )
    common = {(a, b): n for a, b, n in engine.rows(shared)}
    rows = [
        [
            name,
            common.get((a, a), 0),
            *(_percent(common.get((a, b), 0), common.get((a, a), 0)) for b in range(len(names))),
        ]
        for a, name in enumerate(names)
    ]
    text = "Of the training users of the row's domain, how many train in the column's domain, too."
    return ["## Overlap of users", "", text, "", *_table(("domain", "users", *names), rows)]


def _popularity(engine: Relational, manifest: Mapping[str, Any]) -> list[str]:
    """How training interactions, before the k-core filter, spread over the items."""
    counted = (
        "SELECT c.domain, coalesce(t.train_count, 0) AS n FROM catalogue c LEFT JOIN train_counts t ON c.item = t.item"
    )
    ranked = (
        "SELECT domain, n, row_number() OVER (PARTITION BY domain ORDER BY n DESC) AS place, count(*) OVER (PARTITION "
        "BY domain) AS items "
        f"FROM ({counted}) AS c"
    )
    tops = ", ".join(f"coalesce(sum(n) FILTER (WHERE place <= ceil({share} * items)), 0)" for share in TOP_SHARES)
    query = (
        f"SELECT domain, count(*), count(*) FILTER (WHERE n = 0), sum(n), {tops} FROM ({ranked}) AS r GROUP BY domain "
        "ORDER BY domain"
    )
    rows = [
        [manifest["domains"][domain], items, never, *(_percent(int(top), int(total)) for top in shares)]
        for domain, items, never, total, *shares in engine.rows(query)
    ]
    head = ("domain", "items", "never trained on", *(f"top {share:.0%}" for share in TOP_SHARES))
    return [
        "## Popularity",
        "",
        "The share of a domain's training interactions that its most popular items have.",
        "",
        *_table(head, rows),
    ]


def _times(engine: Relational, manifest: Mapping[str, Any]) -> list[str]:
    """A histogram of all interactions per platform, with t1 and t2 where they fall."""
    lines = ["## Interactions over time", ""]
    for (platform,) in engine.rows(
        "SELECT DISTINCT platform FROM sources WHERE item_order = 'timestamp' ORDER BY platform"
    ):
        text = platform.replace("'", "''")
        times = (
            "SELECT i.time FROM interactions i JOIN sources s ON i.domain = s.domain "
            f"WHERE s.item_order = 'timestamp' AND s.platform = '{text}'"
        )
        first, last = engine.rows(f"SELECT min(time), max(time) FROM ({times}) AS t")[0]
        if first is None:
            continue
        width = (last - first) // BINS + 1
        counts = dict(
            engine.rows(f"SELECT (time - {first}) // {width} AS bin, count(*) FROM ({times}) AS t GROUP BY bin")
        )
        lines += [
            f"Platform {platform}:",
            "",
            *_histogram(first, width, counts, manifest["times"].get(platform, {})),
            "",
        ]
    order_only = [name for name, info in manifest["sources"].items() if info["order"] == "position"]
    if order_only:
        lines += [f"Order only, no times: {', '.join(order_only)}", ""]
    return lines[:-1]


def _histogram(first: int, width: int, counts: Mapping[int, int], marks: Mapping[str, int]) -> Iterator[str]:
    """Indented lines in the order of time: the begin of a bin, its bar and count; and the marks."""
    most = max(counts.values())
    waiting = sorted(marks.items(), key=lambda mark: mark[1])
    for n in range(max(counts) + 1):
        start = first + n * width
        while waiting and waiting[0][1] <= start:
            yield _mark(*waiting.pop(0))
        count = counts.get(n, 0)
        yield f"    {_moment(start)} {'#' * -(-BAR * count // most)} {count:,}"
    yield from (_mark(*mark) for mark in waiting)


def _mark(name: str, seconds: int) -> str:
    return f"    {_moment(seconds)} ---- {name} ----"


def _moment(seconds: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # a split time of the config may lie beyond all calendars
        return str(seconds)


def _examples(engine: Relational, manifest: Mapping[str, Any], template: TemplateSpec) -> list[str]:
    """A few sequences as a model reads them: of the users with the smallest keys, which are hashes."""
    lines = ["## Examples"]
    for domain, name in enumerate(manifest["domains"]):
        lines += _rendered(engine, f"{name}, training", f"domain_sequences WHERE domain = {domain}", name, template)
    lines += _rendered(engine, "mixed", "mixed_sequences WHERE true", template.all_domains, template)
    for domain, name in enumerate(manifest["domains"]):
        if manifest["sets"][name]["role"] == "downstream":
            where = f"histories WHERE phase = 2 AND domain = {domain}"
            lines += _rendered(engine, f"{name}, test (the last line is the target)", where, name, template, "target")
    return lines


def _rendered(
    engine: Relational, title: str, source: str, scope: str, template: TemplateSpec, target: str = "NULL"
) -> list[str]:
    items = "list_transform(events, lambda e: e.item)"
    # `user` is selected because Spark takes a bare `user` that only ORDER BY names for its function of that name.
    sequences = engine.rows(
        f"SELECT user, {items}, array_length(events), {target} FROM {source} ORDER BY user LIMIT {EXAMPLES}"
    )
    lines = []
    for _, every, length, wanted in sequences:
        recent = every[-EXAMPLE_ITEMS:]
        shown = [*recent, *([] if wanted is None else [wanted])]
        titles = dict(engine.rows(f"SELECT item, title FROM catalogue WHERE item IN ({', '.join(map(str, shown))})"))
        text = template.header.format(scope=scope)
        if length > len(recent):
            text += f"... ({length - len(recent)} older items){template.end_of_item}"
        text += "".join(titles[item] + template.end_of_item for item in shown)
        lines += ["", f"{title}:", "", *(f"    {line}" for line in text.splitlines())]
    return lines
