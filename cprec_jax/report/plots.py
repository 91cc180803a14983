"""PNG plots of a work directory: training curves by step, and quality by checkpoint. Agg only, no global pyplot
state."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cprec_jax.evaluate.results import ORACLE, POPULARITY, UNTRAINED, Result
from cprec_jax.report.entries import PRIMARY, measured_of
from cprec_jax.report.render import one_line

Records = Mapping[str, Sequence[Mapping[str, float]]]

# Okabe and Ito's palette (2008), which colour-blind readers can tell apart; then line styles.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
STYLES = ("-", "--", ":", "-.")
RC: dict[Any, Any] = {
    "axes.edgecolor": "#8a94a3",
    "axes.grid": True,
    "axes.labelcolor": "#1c2430",
    "axes.prop_cycle": "cycler('color', " + repr(list(COLOURS)) + ")",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "font.size": 10,
    "grid.color": "#e3e7ec",
    "legend.frameon": False,
    "text.parse_math": False,  # a set may be called $x$
    "xtick.color": "#4a5563",
    "ytick.color": "#4a5563",
}
SIZE, DPI = (7.5, 3.9), 150
TOKEN_LOSS, ITEM_LOSS = "loss per token", "loss per item"
LEGEND_WIDTH = 100  # characters
SMOOTH_FROM = 60  # logged steps from which a running mean is drawn over the raw curve
POPULARITY_UP_TO = 4  # sets up to which the popularity row is drawn beside the checkpoints


def write_plots(
    directory: Path, metrics: Records, results: Sequence[Result], set_order: Sequence[str]
) -> dict[str, str]:
    """Write what the records allow; returns {file name: caption} in reading order."""
    captions = {}
    curves: tuple[tuple[str, str, str, str, str, Callable[[float], float]], ...] = (
        ("loss.png", TOKEN_LOSS, "Training loss", "nats per token", "Training loss by step, in nats per token", float),
        (
            "item_loss.png",
            ITEM_LOSS,
            "Training loss",
            "nats per item",
            "Training loss over the catalogue by step, in nats per item",
            float,
        ),
        (
            "learning_rate.png",
            "lr",
            "Learning rate",
            "learning rate (× 10⁻³)",
            "Learning rate by step",
            lambda value: value * 1e3,
        ),
        (
            "tokens_per_second.png",
            "tokens_per_second",
            "Training speed",
            "thousand tokens per second",
            "Training speed by step, padding not counted",
            lambda value: value / 1e3,
        ),
    )
    metrics = {run: [_by_unit(record) for record in records] for run, records in metrics.items()}
    for name, key, title, label, caption, scale in curves:
        lines = {
            run: [(r["step"], scale(r[key])) for r in records if math.isfinite(r.get(key, math.nan))]
            for run, records in metrics.items()
        }
        lines = {run: line for run, line in lines.items() if line}
        if lines:
            _curve(directory / name, lines, title, label, from_zero="loss" not in key, smooth="loss" in key)
            captions[name] = caption
    for number, (run, line) in enumerate(checkpoint_lines(results).items()):
        name = "checkpoints.png" if number == 0 else f"checkpoints_{number + 1}.png"
        captions[name] = _checkpoints(directory / name, run, line, results, set_order)
    return captions


def _by_unit(record: Mapping[str, float]) -> dict[str, float]:
    """A line of metrics whose loss is named by its unit: a run that counts items has nats per item, and beside them
    perhaps per token."""
    return {
        (ITEM_LOSS if "items" in record else TOKEN_LOSS) if key == "loss" else key: value
        for key, value in record.items()
    }


def checkpoint_lines(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results of several steps of one run, by run, in order of steps; an untrained model is step 0 of every run."""
    runs: dict[str, dict[int, Result]] = {}
    for result in results:
        if result.step is not None and result.kind != UNTRAINED:
            runs.setdefault(result.run, {})[result.step] = result
    start = next((result for result in results if result.kind == UNTRAINED), None)
    for run, steps in runs.items():
        if start is not None and start.run == run:
            steps.setdefault(0, start)
    return {run: [steps[step] for step in sorted(steps)] for run, steps in runs.items() if len(steps) > 1}


def _step(result: Result) -> int:
    return 0 if result.kind == UNTRAINED or result.step is None else result.step


def _curve(
    path: Path, lines: Mapping[str, list[tuple[float, float]]], title: str, label: str, from_zero: bool, smooth: bool
) -> None:
    with rc_context(RC):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for index, (run, points) in enumerate(lines.items()):
            x, y = [p[0] for p in points], [p[1] for p in points]
            look: dict[str, Any] = {
                "color": COLOURS[index % len(COLOURS)],
                "linestyle": STYLES[index // len(COLOURS) % len(STYLES)],
            }
            many = smooth and len(y) >= SMOOTH_FROM
            axes.plot(
                x,
                y,
                linewidth=0.8 if many else 1.6,
                alpha=0.35 if many else 1.0,
                label=None if many else short_name(run),
                **look,
            )
            if many:
                axes.plot(x, running_mean(y), linewidth=1.8, label=f"{short_name(run)} (running mean)", **look)
            if len(y) == 1:
                axes.plot(x, y, marker="o", color=look["color"])
        axes.set(title=title, xlabel="step", ylabel=label)
        if from_zero:
            axes.set_ylim(bottom=0)
        _steps_axis(axes)
        _legend(figure, axes)
        write_figure(figure, path)


def running_mean(values: Sequence[float], share: float = 0.03) -> list[float]:
    """The mean over a centred window of about `share` of the curve (shorter at the ends), so that it does not lag
    behind."""
    half = max(1, round(share * len(values) / 2))
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _checkpoints(
    path: Path, run: str, line: Sequence[Result], results: Sequence[Result], set_order: Sequence[str]
) -> str:
    sets = [name for name in set_order if sum(name in result.sets for result in line) > 1]
    warm = any(result.sets[name].slice_of("warm", PRIMARY) for result in line for name in sets if name in result.sets)
    popularity = next((r for r in results if r.kind == POPULARITY), None) if len(sets) <= POPULARITY_UP_TO else None
    panels: list[tuple[str, str, str]] = [
        ("nll", "", "Target NLL"),
        ("hr@100", "warm" if warm else "", "HR@100" + (", warm targets" if warm else "")),
    ]
    with rc_context(RC):
        figure = Figure(figsize=(SIZE[0] * 1.2, SIZE[1] * 1.1), dpi=DPI, layout="constrained")
        panes = figure.subplots(1, 2, gridspec_kw={"wspace": 0.06})
        for axes, (metric, part, title) in zip(panes, panels, strict=True):
            for index, name in enumerate(sets):
                points = [(_step(r), value) for r in line if (value := _value(r, name, part, metric)) is not None]
                look: dict[str, Any] = {
                    "color": COLOURS[index % len(COLOURS)],
                    "linestyle": STYLES[index // len(COLOURS) % len(STYLES)],
                }
                axes.plot(
                    [p[0] for p in points],
                    [p[1] for p in points],
                    marker="o",
                    markersize=4,
                    label=short_name(name),
                    **look,
                )
                floor = _value(popularity, name, part, metric) if popularity else None
                if floor is not None:
                    axes.axhline(floor, linewidth=1, linestyle=":", color=look["color"])
            axes.set(
                title=title,
                xlabel="step",
                ylabel="nats, less is better" if metric == "nll" else "share of users, more is better",
            )
            _steps_axis(axes)
        panes[1].set_ylim(bottom=0)
        if popularity is not None and sets:
            panes[0].plot([], [], linewidth=1, linestyle=":", color="#4a5563", label=short_name(popularity.name))
        _legend(figure, panes[0], always=True)
        write_figure(figure, path)
    of_run = f" of {short_name(run)}" if run else ""
    dotted = "; dotted: popularity" if popularity else ""
    return f"Quality by checkpoint{of_run}: {panels[0][2]} and {panels[1][2]}, whole catalogue{dotted}"


def _value(result: Result, set_name: str, part: str, metric: str) -> float | None:
    measured = measured_of(result, set_name, PRIMARY, part)
    return None if measured is None else measured.values.get(metric)


def write_comparison(path: Path, results: Sequence[Result], set_order: Sequence[str]) -> str | None:
    """HR@10 of every method with its 95 % interval, one panel per set; returns the caption, or None where there is
    nothing to draw."""
    sets = [name for name in set_order if sum(_value(r, name, "", "hr@10") is not None for r in results) > 1]
    if not sets:
        return None
    methods = list(reversed(results))
    across = 2 if len(sets) == 4 else min(len(sets), 3)
    down = -(-len(sets) // across)
    with rc_context(RC):
        figure = Figure(
            figsize=(2.2 + 2.4 * across, 0.6 + (0.9 + 0.24 * len(methods)) * down), dpi=DPI, layout="constrained"
        )
        grid = figure.subplots(
            down, across, squeeze=False, sharey=True, gridspec_kw={"hspace": 0.08, "wspace": 0.06}
        ).ravel()
        for axes, name in zip(grid, sets, strict=False):
            for height, result in enumerate(methods):
                value = _value(result, name, "", "hr@10")
                if value is None:
                    continue
                low, high = result.sets[name].protocols[PRIMARY].ci95.get("hr@10", (value, value))
                colour = "#8a94a3" if result.kind == ORACLE else COLOURS[0]
                axes.hlines(height, low, high, color=colour, linewidth=2, alpha=0.6)
                axes.plot(value, height, marker="D" if result.kind == ORACLE else "o", markersize=5, color=colour)
            axes.set(title=short_name(name, 22), xlim=(0, None), ylim=(-0.6, len(methods) - 0.4))
            axes.set_yticks(range(len(methods)), [short_name(result.name, 22) for result in methods])
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
            axes.tick_params(labelsize=9)
        for axes in grid[len(sets) :]:
            axes.set_visible(False)
        figure.supxlabel("HR@10, whole catalogue (share of users)", fontsize=10)
        write_figure(figure, path)
    return "HR@10 on the whole catalogue with 95 % intervals"


def _steps_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _legend(figure: Figure, axes: Axes, always: bool = False) -> None:
    """Below the axes, where it covers nothing; a single curve needs none."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1 or (always and labels) or any("mean" in label for label in labels):
        fitting = LEGEND_WIDTH // (max(map(len, labels)) + 8)  # a name, its line and the space between
        figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(len(labels), 4, fitting)))


def short_name(text: str, longest: int = 28) -> str:
    """At most `longest` characters; the end stays, where seeds and sets stand."""
    text = one_line(text)
    end = longest // 3
    return text if len(text) <= longest else f"{text[: longest - 1 - end]}…{text[-end:]}"


def write_figure(figure: Figure, path: Path) -> None:
    # Without the version of matplotlib in it, equal inputs give an equal file.
    FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})
