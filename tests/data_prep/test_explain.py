"""The picture of the corpus tells what the corpus holds."""

from pathlib import Path

import numpy as np
import pytest

from cprec_jax.artefact import read_json
from cprec_jax.corpus import Corpus
from data_prep.explain import _histogram, _moment
from tests.data_prep.tables import numbered_titles, random_interactions, table_source
from tests.run_jobs import made_from, prepare


def config_of(folder: Path, **section) -> dict:
    sources = {
        "books": table_source(folder / "books", [*random_interactions(4), ("u1", "unknown", 5)], numbered_titles()),
        "films": table_source(folder / "films", random_interactions(5, users=90), numbered_titles()),
        "songs": table_source(folder / "songs", random_interactions(6), numbered_titles(), "downstream"),
        "plays": table_source(folder / "plays", random_interactions(7), numbered_titles(), "downstream", "position"),
    }
    corpus = {
        "sources": sources,
        "candidates": {"protocols": ["u3"]},
        "times": {"default": {"t1": 700, "t2": 850}},
        **section,
    }
    return {"corpus": corpus, "text": {"template": {"header": "One read in {scope}:\n", "end_of_item": ";\n"}}}


@pytest.fixture(scope="module")
def explained(tmp_path_factory) -> tuple[Corpus, str]:
    workdir = tmp_path_factory.mktemp("explained")
    prepare(config_of(workdir, explain=True), workdir)
    return Corpus.open(workdir / "corpus"), (workdir / "corpus" / "explain.md").read_text()


def row(text: str, heading: str, name: str) -> list[str]:
    """The cells after `name` in the table below a heading."""
    section = text.split(f"## {heading}")[1].split("\n## ")[0]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_steps_are_those_of_the_manifest(explained):
    corpus, text = explained
    for name, steps in corpus.manifest["counts"].items():
        for step, counts in steps.items():
            interactions, _, users, items = row(text, "Steps", f"{name}: {step}")
            assert [int(n.replace(",", "")) for n in (interactions, users, items)] == [
                counts[k] for k in ("interactions", "users", "items")
            ]
    assert row(text, "Steps", "books: with a known title")[1] == "99.9 %"
    assert row(text, "Refused", "interaction with an unknown item") == ["1", "books u1 unknown"]
    assert row(text, "Domains", "songs")[4] == str(len(corpus.targets("test", "songs")))


def test_lengths(explained):
    corpus, text = explained
    for name, sequences in (
        ("books: training", corpus.sequences("domain", "books")),
        ("songs: training", corpus.sequences("sft", "songs")),
        ("mixed", corpus.sequences("mixed")),
        ("plays: test history", corpus.targets("test", "plays")),
    ):
        lengths = np.diff(sequences.offsets)
        cells = row(text, "Lengths of sequences, in items", name)
        assert cells[:3] == [str(len(lengths)), f"{lengths.mean():.1f}", str(lengths.min())]
        assert int(cells[5]) == sorted(lengths)[(len(lengths) - 1) // 2]
        assert cells[-1] == str(lengths.max())


def test_users_of_several_domains(explained):
    corpus, text = explained
    users = {name: set(corpus.sequences("domain", name).user.tolist()) for name in ("books", "films")}
    users |= {name: set(corpus.sequences("sft", name).user.tolist()) for name in ("songs", "plays")}
    everybody = set.union(*users.values())
    for n in range(1, 5):
        count = sum(sum(user in users_of_set for users_of_set in users.values()) == n for user in everybody)
        if count:
            assert row(text, "Users by the number of domains they train in", str(n)) == [
                str(count),
                f"{100 * count / len(everybody):.1f} %",
            ]
    for name, users_of_set in users.items():
        shares = [
            f"{100 * len(users_of_set & others_of_set) / len(users_of_set):.1f} %" for others_of_set in users.values()
        ]
        assert row(text, "Overlap of users", name) == [str(len(users_of_set)), *shares]


def test_popularity(explained):
    corpus, text = explained
    counts = np.sort(corpus.items.train_count[corpus.catalogue("films")])[::-1]
    top = [f"{100 * counts[:n].sum() / counts.sum():.1f} %" for n in (1, 2, 3, 5, 13)]
    assert row(text, "Popularity", "films") == [str(len(counts)), str(int((counts == 0).sum())), *top]


def test_times_and_examples(explained):
    corpus, text = explained
    section = text.split("## Interactions over time")[1].split("## Examples")[0]
    bars = [line for line in section.splitlines() if "#" in line]
    clocked = ("books", "films", "songs")
    total = sum(corpus.manifest["counts"][name]["without consecutive repeats"]["interactions"] for name in clocked)
    assert sum(int(line.split()[-1].replace(",", "")) for line in bars) == total
    assert section.count("---- t1 ----") == section.count("---- t2 ----") == 1
    assert "Order only, no times: plays" in section
    sequences = corpus.sequences("domain", "books")
    items = sequences.items[sequences.offsets[0] : sequences.offsets[1]]
    shown = "".join(f"    {corpus.items.title[item]};\n" for item in items[-8:])
    older = f"    ... ({len(items) - 8} older items);\n" if len(items) > 8 else ""
    assert f"books, training:\n\n    One read in books:\n{older}{shown}" in text
    targets = corpus.targets("test", "songs")
    first = text.split("songs, test (the last line is the target):\n\n")[1].split("\n\n")[0]
    assert first.splitlines()[-1] == f"    {corpus.items.title[targets.target[0]]};"


def test_it_is_printed_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plain, explained = config_of(tmp_path), config_of(tmp_path, explain=True)
    assert made_from(plain, tmp_path, "corpus") == made_from(explained, tmp_path, "corpus")
    prepare(plain, tmp_path)
    assert capsys.readouterr().out == "" and not (tmp_path / "corpus" / "explain.md").exists()
    first = read_json(tmp_path / "corpus" / "manifest.json", made_by="prepare")
    prepare(explained, tmp_path)
    assert capsys.readouterr().out.strip() == (tmp_path / "corpus" / "explain.md").read_text().strip()
    again = read_json(tmp_path / "corpus" / "manifest.json", made_by="prepare")
    assert "explain.md" in again.pop("file_sizes") and {**again, "file_sizes": first["file_sizes"]} == first


def test_nothing_left_to_train_on(tmp_path: Path):
    prepare(config_of(tmp_path, explain=True, k_core=500), tmp_path)
    text = (tmp_path / "corpus" / "explain.md").read_text()
    assert row(text, "Steps", "books: after k-core")[0] == "0"
    assert row(text, "Overlap of users", "books") == ["0", "-", "-", "-", "-"]


def test_histogram_keeps_the_order_of_time():
    lines = list(_histogram(100, 10, {0: 50, 2: 1}, {"t2": 130, "t1": 105}))
    assert [line.split("1970-01-01 ")[1] for line in lines] == [
        "00:01 " + "#" * 50 + " 50",
        "00:01 ---- t1 ----",
        "00:01  0",
        "00:02 # 1",
        "00:02 ---- t2 ----",
    ]
    assert _moment(10**18) == str(10**18)
