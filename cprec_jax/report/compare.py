"""Command `compare`: any results of one corpus in one table, with the tests that say which differences are real."""

import csv
import dataclasses
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cprec_jax.config.build import nearest
from cprec_jax.errors import UserError
from cprec_jax.evaluate.metrics import METRICS
from cprec_jax.evaluate.ranks_file import has_protocol, read_user_metrics
from cprec_jax.evaluate.results import Measured, without_score_note
from cprec_jax.evaluate.significance import Comparison, UserMetrics, compare, on_common_users
from cprec_jax.report.entries import Entry, number
from cprec_jax.report.render import WIDTH, markdown_table, plain_text
from cprec_jax.report.set_facts import small_note
from cprec_jax.report.table import NOTHING, Cell, Column, Row, Table
from cprec_jax.report.tables import metric_cells
from cprec_jax.workdir import RESULTS_FILE, results_directory

ALPHA = 0.05
BETTER, WORSE = "▲", "▼"
TOO_FEW = "compare needs at least two results (beside the oracle and random); name more result directories"
LEGEND = (
    f"{BETTER} significantly better than {{method}}, {WORSE} significantly worse (paired randomisation test over "
    "users of seed-averaged "
    f"metrics, p < {ALPHA} after Holm's correction over all sets and rows of a metric); no mark: no difference shown. "
    "The 95 % bootstrap "
    "interval is that of the difference. p seeds: t-test over seeds, not corrected. Effect: mean difference over its "
    "standard deviation. "
    "random is a closed form, an expectation without draws, so nothing is tested against it."
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """`paths`: result directories, their files, folders of them, or work directories. `method`: the one compared with
    all others (default: the first). `slice_name`: only the users of that slice, such as `generalised`. `out`: a file to
    write, .md or .csv."""

    paths: tuple[Path, ...]
    method: str | None = None
    protocol: str = "full"
    slice_name: str | None = None
    metrics: tuple[str, ...] = ("hr@10", "ndcg@10", "nll")
    samples: int = 10_000
    out: Path | None = None

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in (*METRICS, "nll"):
                raise UserError(f"--metrics={metric}: unknown metric{nearest(metric, (*METRICS, 'nll'))}")
        if self.out is not None and self.out.suffix not in (".md", ".csv"):
            raise UserError(f"--out={self.out}: end it with .md or .csv")


def run(request: Request) -> str:
    """The table as text; also written to `request.out`. Results that cannot be paired are a `UserError`."""
    results, left_out = read(request.paths, request.protocol, request.slice_name)
    method = pick(results, request.method)
    rivals = [result for result in results if result is not method]
    if all(rival.oracle or rival.expected for rival in rivals):
        raise UserError(TOO_FEW)
    counted = {
        name: {result.name: len(result.users[name]) for result in results if name in result.users}
        for name in method.users
    }
    cut = on_common_users(results)
    comparisons = compare(
        cut[results.index(method)], [cut[results.index(rival)] for rival in rivals], request.metrics, request.samples
    )
    if not comparisons:
        raise UserError(f"{method.name} shares no set and metric with the others")
    pairs = dict.fromkeys(
        (row.set_name, row.metric) for name in method.users for row in comparisons if row.set_name == name
    )
    where = ", ".join(filter(None, (request.protocol, request.slice_name)))
    tables = [metric_table(name, metric, method.name, cut, comparisons, where, counted[name]) for name, metric in pairs]
    legend = LEGEND.format(method=method.name)
    if request.out is not None:
        text = (
            csv_text(comparisons, cut, request.slice_name or "")
            if request.out.suffix == ".csv"
            else "\n".join([*map(markdown_table, tables), legend, ""])
        )
        request.out.parent.mkdir(parents=True, exist_ok=True)
        request.out.write_text(text, encoding="utf-8")
    return plain_text(tables) + "".join(textwrap.fill(text, WIDTH) + "\n" for text in (legend, *left_out))


def read(paths: Sequence[Path], protocol: str, slice_name: str | None = None) -> tuple[list[UserMetrics], list[str]]:
    """Every result once, in the order given, and sentences on those left out. Equal names get as much of their
    directory in front as tells them apart. A result without the protocol (a file of scores of some candidates) is left
    out where a folder of results was named, and is a `UserError` where it was named itself."""
    named = {path.resolve() for path in paths} | {path.resolve().parent for path in paths if path.is_file()}
    named_or_below = list(dict.fromkeys(directory.resolve() for path in paths for directory in expand(path)))
    directories = [directory for directory in named_or_below if directory in named or has_protocol(directory, protocol)]
    left_out = [
        f"{directory.name} has no ranks under {protocol} and is left out."
        for directory in named_or_below
        if directory not in directories
    ]
    results = [read_user_metrics(directory, protocol, slice_name) for directory in directories or named_or_below]
    names = told_apart([result.name for result in results], directories)
    return [dataclasses.replace(result, name=name) for result, name in zip(results, names, strict=True)], left_out


def told_apart(names: Sequence[str], directories: Sequence[Path]) -> list[str]:
    """The names, all different: `workdir/name`, `folder/workdir/name` and so on; two of one work directory become their
    directories."""
    labels = list(names)
    for name in {name for name in names if names.count(name) > 1}:
        alike = [index for index, label in enumerate(names) if label == name]
        workdirs = [directories[index].parent.parent.parts for index in alike]
        for depth in range(1, max(map(len, workdirs)) + 1):
            longer = ["/".join([*parts[-depth:], name]) for parts in workdirs]
            if len(set(longer)) == len(longer):
                break
        else:
            longer = [str(directories[index]) for index in alike]
        for index, label in zip(alike, longer, strict=True):
            labels[index] = label
    return labels


def expand(path: Path) -> list[Path]:
    """The result directories that a path means."""
    if path.is_file():
        path = path.parent
    if (path / RESULTS_FILE).is_file():
        return [path]
    for folder in (path, *(results_directory(path, split) for split in ("test", "valid"))):
        files = folder.glob(f"*/{RESULTS_FILE}")
        if directories := sorted(file.parent for file in files if not file.parent.name.startswith(".")):
            return directories
    raise UserError(f"{path}: no results here; give WORKDIR/results/NAME, WORKDIR/results or WORKDIR")


def pick(results: Sequence[UserMetrics], name: str | None) -> UserMetrics:
    for result in results:
        if result.name == name or (name is None and not result.oracle and not result.expected):
            if result.oracle:
                raise UserError(f"--method={name}: the oracle is a bound, not a method; name another result")
            if result.expected:
                raise UserError(
                    f"--method={name}: random is a closed form without draws, which cannot be tested; name another "
                    "result"
                )
            return result
    if name is None:
        raise UserError(TOO_FEW)
    raise UserError(f"--method={name}: no such result{nearest(name, [result.name for result in results])}")


def metric_table(
    set_name: str,
    metric: str,
    method: str,
    results: Sequence[UserMetrics],
    comparisons: Sequence[Comparison],
    protocol: str,
    counted: Mapping[str, int],
) -> Table:
    """One set and metric, a row per result: its value (best and second marked), and how the method differs from it.
    `counted`: the users that each result has ranked."""
    with_metric = [result for result in results if metric in result.values.get(set_name, {})]
    users = len(with_metric[0].users[set_name])
    entries = [
        Entry(
            name=result.name,
            kind="bound" if result.oracle else "method",
            measured=Measured(users=users, values={metric: float(result.values[set_name][metric].mean())}),
        )
        for result in with_metric
    ]
    by_reference = {row.reference: row for row in comparisons if (row.set_name, row.metric) == (set_name, metric)}
    rows = []
    for entry, (cell,) in zip(entries, metric_cells([(metric, metric)], entries), strict=True):
        row = by_reference.get(entry.name)
        rows.append(Row(cells=(Cell(text=entry.name), _marked(cell, row), *_details(row)), kind=entry.kind))
    notes = []
    if (most := max(counted.values())) > users:
        fewer = ", ".join(f"{name} has {n:,}" for name, n in counted.items() if n < most)
        why = f"{fewer}, others up to {most:,}" if fewer else f"each has {most:,}, but not the same"
        notes.append(f"Only the {users:,} users that all results have ranked ({why})")
    notes += [
        without_score_note(result.name, set_name, result.without_score[set_name])
        for result in with_metric
        if set_name in result.without_score
    ]
    columns = ("Method", metric.upper(), f"{method} minus it", "95 % interval", "p", "p Holm", "p seeds", "effect")
    return Table(
        title=f"{set_name}, {metric.upper()}",
        subtitle=f"{users:,} users, {protocol}",
        warning=small_note(max(counted.values())) if any(set_name in result.too_small for result in results) else "",
        columns=tuple(Column(name=name) for name in columns),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def verdict(row: Comparison) -> str:
    """Whether the reference of a comparison is significantly better than the method, worse, or neither (empty)."""
    if row.p_holm >= ALPHA:
        return ""
    method_better = (row.difference > 0) != (row.metric == "nll")
    return WORSE if method_better else BETTER


def _marked(cell: Cell, row: Comparison | None) -> Cell:
    return cell if row is None else Cell(text=f"{cell.text}{verdict(row)}", mark=cell.mark)


def _details(row: Comparison | None) -> list[Cell]:
    if row is None:
        return [Cell(text=NOTHING)] * 6
    low, high = (number(row.metric, value) for value in row.ci95)
    sign = "+" if row.difference > 0 else ""
    tests = (_p(row.p), _p(row.p_holm), NOTHING if row.p_seeds is None else _p(row.p_seeds))
    return [
        Cell(text=text)
        for text in (f"{sign}{number(row.metric, row.difference)}", f"{low} to {high}", *tests, f"{row.effect:+.3f}")
    ]


def _p(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}"


def csv_text(comparisons: Sequence[Comparison], results: Sequence[UserMetrics], slice_name: str = "") -> str:
    """Every comparison as one line in full precision; `slice`: empty where all users are compared."""
    stream = io.StringIO()
    fields = ("set_name", "metric", "method", "reference", "users", "value", "reference_value", "difference")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [*fields, "ci_low", "ci_high", "p", "p_holm", "p_seeds", "effect", "reference_is", "too_small", "slice"]
    )
    small = frozenset().union(*(result.too_small for result in results))
    verdicts = {BETTER: "better", WORSE: "worse", "": ""}
    for row in comparisons:
        p_seeds = "" if row.p_seeds is None else row.p_seeds
        tests = (
            *row.ci95,
            row.p,
            row.p_holm,
            p_seeds,
            row.effect,
            verdicts[verdict(row)],
            "yes" if row.set_name in small else "",
            slice_name,
        )
        writer.writerow([*(getattr(row, name) for name in fields), *tests])
    return stream.getvalue()
