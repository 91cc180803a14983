"""Plots are written where there is something to draw, and are not blank."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from cprec_jax.evaluate.results import Result, read_results
from cprec_jax.report import plots
from cprec_jax.report.plots import checkpoint_lines, running_mean, write_comparison, write_plots
from cprec_jax.report.training_metrics import read_metrics
from tests.report import workdirs

SETS = {"Books": 800, "Garden $x$ <b>": 800}


def contrast(path: Path) -> float:
    pixels = imread(path)[..., :3]
    assert pixels.shape[0] > 300 and pixels.shape[1] > 600
    return float(np.var(pixels))


def coloured(path: Path) -> float:
    """Share of pixels that are not grey: the curves, not the axes."""
    pixels = imread(path)[..., :3]
    return float(np.mean(pixels.max(axis=-1) - pixels.min(axis=-1) > 0.25))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    return workdirs.make_workdir(tmp_path_factory.mktemp("work"), SETS)


def test_all_plots_are_drawn(workdir, tmp_path):
    captions = write_plots(tmp_path, read_metrics(workdir), read_results(workdir), list(SETS))
    assert list(captions) == ["loss.png", "learning_rate.png", "tokens_per_second.png", "checkpoints.png"]
    for name in captions:
        assert contrast(tmp_path / name) > 1e-3
        assert coloured(tmp_path / name) > 1e-3
    assert write_comparison(tmp_path / "hr10.png", read_results(workdir), list(SETS))
    assert coloured(tmp_path / "hr10.png") > 1e-3


def test_the_curve_follows_the_data(tmp_path):
    """A falling line lies high at the left and low at the right of the picture."""
    run = {"cpt": [{"step": step, "loss": 5.0 - step / 10} for step in range(40)]}
    write_plots(tmp_path, run, [], [])
    pixels = imread(tmp_path / "loss.png")[..., :3]
    rows, columns = np.nonzero(pixels[..., 2] - pixels[..., 0] > 0.5)
    left, right = rows[columns < np.quantile(columns, 0.1)], rows[columns > np.quantile(columns, 0.9)]
    assert left.mean() + 100 < right.mean()


def test_nothing_to_draw_writes_nothing(tmp_path):
    assert write_plots(tmp_path, {}, [], []) == {}
    assert write_comparison(tmp_path / "hr10.png", [], []) is None
    assert list(tmp_path.iterdir()) == []


def test_one_logged_step_and_missing_or_infinite_values_do_no_harm(tmp_path):
    metrics = {"cpt": [{"step": 1, "loss": 2.0}], "sft": [{"step": 1, "loss": float("nan")}, {"step": 2, "lr": 0.1}]}
    assert list(write_plots(tmp_path, metrics, [], [])) == ["loss.png", "learning_rate.png"]


def test_checkpoints_of_a_run_are_ordered_by_step_and_begin_untrained(workdir):
    (line,) = checkpoint_lines(read_results(workdir)).values()
    assert [result.name for result in line] == ["untrained", "cpt-50", "cpt"]
    assert checkpoint_lines([Result(name="a", kind="checkpoint", sets={}, step=5)]) == {}


def test_two_runs_give_two_lines():
    steps = [("a", "cpt", 10), ("b", "cpt", 5), ("c", "sft", 1), ("d", "sft", 2)]
    lines = checkpoint_lines(
        [Result(name=name, kind="checkpoint", sets={}, step=step, run=run) for name, run, step in steps]
    )
    assert {run: [r.name for r in line] for run, line in lines.items()} == {"cpt": ["b", "a"], "sft": ["c", "d"]}


def test_equal_inputs_give_equal_files(workdir, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_plots(tmp_path / folder, read_metrics(workdir), [], [])
    assert (tmp_path / "a" / "loss.png").read_bytes() == (tmp_path / "b" / "loss.png").read_bytes()


def test_the_running_mean_keeps_a_straight_line_and_smooths_noise():
    line = [2.0 * i for i in range(100)]
    assert running_mean(line)[10:90] == pytest.approx(line[10:90])
    noise = np.random.default_rng(0).normal(size=1000)
    assert np.std(running_mean(list(noise))) < 0.3 * np.std(noise)


def test_the_popularity_line_is_in_the_legend(workdir, tmp_path, monkeypatch):
    legends = {}
    monkeypatch.setattr(plots, "write_figure", lambda figure, path: legends.update({path.name: figure.legends}))
    plots.write_plots(tmp_path, {}, read_results(workdir), list(SETS))
    (legend,) = legends["checkpoints.png"]
    assert [text.get_text() for text in legend.get_texts()] == [*SETS, "popularity"]
    assert legend.get_lines()[-1].get_linestyle() == ":"
