"""Plots of what quality depends on: length of the history, popularity and title length of the target, and cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from cprec_jax.artefact import MANIFEST
from cprec_jax.corpus import Corpus
from cprec_jax.evaluate.intervals import HISTORY, WARM, Interval, intervals
from cprec_jax.evaluate.metrics import only_bounds, per_user
from cprec_jax.evaluate.ranks_file import has_ranks, read_ranks
from cprec_jax.evaluate.results import ORACLE, RANDOM, Result
from cprec_jax.report.entries import PRIMARY, measured_of
from cprec_jax.report.plots import COLOURS, DPI, RC, SIZE, STYLES, short_name, write_figure
from cprec_jax.workdir import corpus_directory

AT_MOST_SETS = 12
ACROSS = 3  # panels side by side
FEWEST = 20  # users a point of a curve stands for
LENGTHS = intervals(*HISTORY, 51)
COUNTS = intervals(0, 1, WARM, 20, 100)
CHARACTERS = intervals(1, 21, 41, 61, 81, 121)
Bins = Sequence[Interval]


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One method on one set: by user, HR@10, the share of the catalogue ranked above the target, and the three
    quantities of the target."""

    hit: np.ndarray
    above: np.ndarray | None  # None: ranks beyond `ranks_exact_to` are not known
    history: np.ndarray
    count: np.ndarray
    characters: np.ndarray


def write_slice_plots(directory: Path, workdir: Path, results: Sequence[Result], sets: Sequence[str]) -> dict[str, str]:
    """Write the plots whose data are there (ranks of single users, the corpus, costs); {file name: caption}."""
    captions = {}
    ranked = read_ranked(workdir, results, sets)
    plots: tuple[
        tuple[str, str, Bins, Callable[[Ranked], np.ndarray], Callable[[Ranked], np.ndarray | None], str, str], ...
    ] = (
        (
            "history.png",
            "HR@10 by length of the history",
            LENGTHS,
            lambda r: r.history,
            lambda r: r.hit,
            "items in the history",
            "HR@10",
        ),
        (
            "popularity.png",
            "HR@10 by popularity of the target",
            COUNTS,
            lambda r: r.count,
            lambda r: r.hit,
            "training interactions of the target",
            "HR@10",
        ),
        (
            "title_length.png",
            "Rank of the target by length of its title",
            CHARACTERS,
            lambda r: r.characters,
            lambda r: r.above,
            "characters of the target's title",
            "share of the catalogue above it (less is better)",
        ),
    )
    for name, caption, bins, by, value, xlabel, ylabel in plots:
        if _by_bins(directory / name, ranked, bins, by, value, xlabel, ylabel):
            captions[name] = f"{caption}, whole catalogue; points of fewer than {FEWEST} users are left out"
    if _cost(directory / "cost.png", results, sets):
        captions["cost.png"] = (
            "Cost against quality: seconds per user (training of baselines included) and HR@10, whole catalogue"
        )
    return captions


def read_ranked(workdir: Path, results: Sequence[Result], sets: Sequence[str]) -> dict[str, dict[str, Ranked]]:
    """Set -> method -> what is known of every user; empty where ranks or the corpus are absent."""
    with_ranks = [result for result in results if has_ranks(result) and result.kind not in (RANDOM, ORACLE)]
    if not with_ranks or not (corpus_directory(workdir) / MANIFEST).is_file():
        return {}
    corpus = Corpus.open(corpus_directory(workdir))
    characters = np.array([len(title) for title in corpus.items.title])
    ranked: dict[str, dict[str, Ranked]] = {name: {} for name in sets[:AT_MOST_SETS]}
    for result in with_ranks:
        assert result.folder is not None
        table = read_ranks(result.folder, PRIMARY)
        names = np.asarray(table["set"].to_pylist())
        for name in ranked:
            if name not in result.sets or name not in corpus.sets:
                continue
            columns = {
                key: table[key].to_numpy()[names == name]
                for key in ("user", "target", "n_better", "n_tied", "n_candidates")
            }
            targets = corpus.targets("valid" if result.split == "valid" else "test", name)
            above = (columns["n_better"] + columns["n_tied"] / 2) / np.maximum(columns["n_candidates"] - 1, 1)
            length = np.diff(targets.offsets)[np.searchsorted(targets.user, columns["user"])]
            ranked[name][result.name] = Ranked(
                hit=per_user(columns["n_better"], columns["n_tied"])["hr@10"],
                above=None if only_bounds(result.sets[name].facts, PRIMARY) else above,
                history=length,
                count=corpus.items.train_count[columns["target"]],
                characters=characters[columns["target"]],
            )
    return {name: methods for name, methods in ranked.items() if methods}


def binned(by: np.ndarray, value: np.ndarray, bins: Bins) -> list[tuple[int, float]]:
    """(number of the bin, mean) of the bins that hold enough users."""
    masks = [interval.mask(by) for interval in bins]
    return [(number, float(value[mask].mean())) for number, mask in enumerate(masks) if mask.sum() >= FEWEST]


def _by_bins(
    path: Path,
    ranked: Mapping[str, Mapping[str, Ranked]],
    bins: Bins,
    by: Callable[[Ranked], np.ndarray],
    value: Callable[[Ranked], np.ndarray | None],
    xlabel: str,
    ylabel: str,
) -> bool:
    curves = {
        name: {
            method: points
            for method, users in methods.items()
            if (values := value(users)) is not None and len(points := binned(by(users), values, bins)) > 1
        }
        for name, methods in ranked.items()
    }

    def draw(axes: Axes, lines: Mapping[str, Any], look: Callable[[str], dict[str, Any]]) -> None:
        for method, points in lines.items():
            numbers, means = zip(*points, strict=True)
            axes.plot(numbers, means, marker="o", markersize=4, **look(method))
        used = [number for points in lines.values() for number, _ in points]
        axes.set_xticks(range(len(bins)), [interval.label("–") for interval in bins])
        axes.set_xlim(min(used) - 0.3, max(used) + 0.3)

    return _write_panels(path, {name: lines for name, lines in curves.items() if lines}, draw, xlabel, ylabel)


def _cost(path: Path, results: Sequence[Result], sets: Sequence[str]) -> bool:
    points: dict[str, dict[str, tuple[float, float]]] = {}
    for result in results:
        seconds = result.cost.get("seconds_by_set", {})
        # the seconds are of all of them
        seeds = len(result.seeds) if isinstance(result.seeds, list) and result.seeds else 1
        for name in sets[:AT_MOST_SETS]:
            measured = measured_of(result, name, PRIMARY)
            if measured is None or result.kind in (ORACLE, RANDOM) or not seconds.get(name, 0) > 0:
                continue
            if (users := result.sets[name].users) and "hr@10" in measured.values:
                point = (seconds[name] / (users * seeds), measured.values["hr@10"])
                points.setdefault(name, {})[result.name] = point

    def draw(axes: Axes, points: Mapping[str, Any], look: Callable[[str], dict[str, Any]]) -> None:
        for method, (x, y) in points.items():
            axes.plot([x], [y], marker="o", markersize=7, **{**look(method), "linestyle": ""})
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())

    return _write_panels(
        path, {name: methods for name, methods in points.items() if len(methods) > 1}, draw, "seconds per user", "HR@10"
    )


def _write_panels(
    path: Path,
    panels: Mapping[str, Mapping[str, Any]],
    draw: Callable[[Axes, Mapping[str, Any], Callable[[str], dict[str, Any]]], None],
    xlabel: str,
    ylabel: str,
) -> bool:
    """One panel per set, drawn by `draw` from its methods; a method looks alike in all. Without panels nothing is
    written."""
    if not panels:
        return False
    methods = list(dict.fromkeys(method for panel in panels.values() for method in panel))

    def look(method: str) -> dict[str, Any]:
        index = methods.index(method)
        style = STYLES[index // len(COLOURS) % len(STYLES)]
        return {"label": short_name(method), "color": COLOURS[index % len(COLOURS)], "linestyle": style}

    with rc_context(RC):
        figure, grid = _panels(len(panels))
        for axes, (name, panel) in zip(grid, panels.items(), strict=False):
            draw(axes, panel, look)
            axes.set(title=short_name(name, 24), ylim=(0, None))
            axes.tick_params(labelsize=8)
        _labels(figure, grid[: len(panels)], xlabel, ylabel)
        write_figure(figure, path)
    return True


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    across = min(n, ACROSS)
    down = -(-n // across)
    size = (max(SIZE[0], 3.4 * across), 0.9 + 2.7 * down)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = list(figure.subplots(down, across, squeeze=False).ravel())
    for axes in grid[n:]:
        axes.set_visible(False)
    return figure, grid


def _labels(figure: Figure, grid: Sequence[Axes], xlabel: str, ylabel: str) -> None:
    """Names of both axes, and one legend for all panels: each method once, though not every panel has all."""
    figure.supylabel(ylabel, fontsize=10)
    for axes in grid[-ACROSS:]:  # the lowest of each column; a legend outside would cover a label of the whole figure
        axes.set_xlabel(xlabel, fontsize=9)
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(len(handles), 5))
