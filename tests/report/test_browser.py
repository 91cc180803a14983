"""The whole report of a road with ranks and examples: daggers, plots, users.html; and how a real browser shows it."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from cprec_jax.artefact import read_json
from tests import run_jobs as jobs
from tests.run_jobs import report

NAMES = ("popularity", "last_items", "markov", "item_knn", "oracle")


@pytest.fixture(scope="module")
def workdir(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("browser")
    shutil.copytree(tiny_rows / "corpus", workdir / "corpus")
    config = {
        "evaluate": {"names": {kind: {"kind": kind} for kind in NAMES}, "protocols": ["full", "u20"], "bootstrap": 20},
        "report": {},
    }
    jobs.evaluate(config, workdir)
    report(config, workdir)
    return workdir


def test_everything_is_written(workdir: Path) -> None:
    names = {path.name for path in (workdir / "report").iterdir()}
    assert {
        "report.html",
        "users.html",
        "tables.tex",
        "history.png",
        "popularity.png",
        "title_length.png",
        "cost.png",
    } <= names
    for name in names:
        if name.endswith(".png"):
            pixels = imread(workdir / "report" / name)[..., :3]
            assert np.mean(pixels.max(axis=-1) - pixels.min(axis=-1) > 0.25) > 5e-4, f"{name} has no curve"
    text = (workdir / "report" / "report.md").read_text()
    assert "### All sets" in text and re.search(r"\*\*0\.\d+†\*\*", text), "Markov is far better than counts here"
    assert r"$^{\dagger}$" in (workdir / "report" / "tables.tex").read_text()


def test_examples_are_the_top_of_the_ranking(workdir: Path) -> None:
    for user in read_json(workdir / "results" / "markov" / "examples.json", "evaluate")["users"]:
        probabilities = [p for _, p in user["top"]]
        titles = [title for title, _ in user["top"]]
        assert len(set(titles)) == 10 and not set(titles) & set(user["history"])
        assert probabilities == sorted(probabilities, reverse=True)
        assert (user["target"] in titles) == (user["rank"] <= 10)
    page = (workdir / "report" / "users.html").read_text()
    assert "What came next" in page and "item_knn" in page and not re.search(r"https?://|<script|url\(", page)


@pytest.mark.parametrize("page", ["report.html", "users.html"])
def test_a_browser_shows_it_without_a_network(workdir: Path, tmp_path: Path, page: str) -> None:
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        pytest.skip("no Chromium here")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    location = (workdir / "report" / page).as_uri()
    shot = tmp_path / "page.png"
    done = subprocess.run(
        [browser, *flags, "--enable-logging=stderr", "--window-size=1100,1600", f"--screenshot={shot}", location],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and shot.is_file(), done.stderr[-2000:]
    assert not re.search(r"CONSOLE.*(error|refused|violat)", done.stderr, re.I), done.stderr
    pixels = imread(shot)[..., :3]
    assert pixels.shape[1] == 1100 and np.var(pixels) > 1e-3 and np.mean(np.ptp(pixels, axis=-1) > 0.25) > 3e-4
