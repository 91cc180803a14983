"""The benchmark of `prepare`: its generator, and that it checks and writes what it promises."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from benchmarks import interactions, measure, prepare
from benchmarks.prepare_equality import differences
from tests.run_jobs import prepare as prepare_corpus


def test_generated_files_hold_what_was_asked_and_are_always_the_same(tmp_path: Path) -> None:
    interactions.generate(tmp_path / "a", 40_000)
    interactions.generate(tmp_path / "b", 40_000)
    for name in interactions.ROLES:
        lines = (tmp_path / "a" / f"{name}.csv").read_text().splitlines()
        assert len(lines) == 10_001 and lines[0].replace('"', "") == "user_id,item_id,timestamp"
        assert len(set(lines)) < len(lines)  # there are duplicates to remove
        items = {line.partition(",")[0] for line in (tmp_path / "a" / f"{name}_items.csv").read_text().splitlines()[1:]}
        assert len(items) == 833 and {line.split(",")[1] for line in lines[1:]} <= items
        assert (tmp_path / "a" / f"{name}.csv").read_bytes() == (tmp_path / "b" / f"{name}.csv").read_bytes()


def test_a_failing_command_shows_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"exit code 3\nsorry"):
        measure.run(["sh", "-c", "echo sorry; exit 3"], tmp_path)


def make_hard(folder: Path) -> None:
    """200 users; times in years instead of seconds, so that many interactions tie and repeat; every third title is
    another item's, too."""
    for name in interactions.ROLES:
        table = pa.csv.read_csv(folder / f"{name}.csv")
        users = [f"u{row % 200}" for row in range(len(table))]
        years = pa.array(table["timestamp"].to_numpy() // 31_536_000 * 31_536_000)
        pa.csv.write_csv(
            table.set_column(0, "user_id", pa.array(users)).set_column(2, "timestamp", years), folder / f"{name}.csv"
        )
        items = pa.csv.read_csv(folder / f"{name}_items.csv")
        titles = items["title"].to_pylist()
        titles[::3] = [f"{title} &amp;  co" for title in titles[1::3] + titles[:1]][: len(titles[::3])]
        titles[1::3] = [f"{title} & co" for title in titles[1::3]]
        pa.csv.write_csv(items.set_column(1, "title", pa.array(titles)), folder / f"{name}_items.csv")


def test_the_pandas_script_makes_the_same_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_pandas = pytest.importorskip("benchmarks.prepare_pandas", exc_type=ImportError)
    assert (prepare_pandas.ROLES, prepare_pandas.MAX_USERS) == (interactions.ROLES, prepare.MAX_USERS)
    interactions.generate(tmp_path / "data", 8_000)
    make_hard(tmp_path / "data")
    section = prepare.corpus_section(tmp_path / "data", "1GB", candidates=False)
    prepare_corpus({"corpus": section}, tmp_path)
    prepare_pandas.main(tmp_path / "data", tmp_path / "pandas")
    corpus = tmp_path / "corpus"
    assert differences(corpus, tmp_path / "pandas") == []
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert manifest["titles"]["items sharing another's title"] > 100 and manifest["mixed"]["users"] > 50
    assert sum(entry["n_test_users"] for entry in manifest["sets"].values()) > 50
    tested = pq.read_table(corpus / "sequences" / "test" / "Games.parquet")
    assert not all(tested["untied"].to_pylist())

    # The comparison can fail: another seed breaks ties differently.
    monkeypatch.setattr(prepare_pandas, "SEED", 1)
    prepare_pandas.main(tmp_path / "data", tmp_path / "pandas")
    lines = differences(corpus, tmp_path / "pandas")
    assert "items: train_count differs" in lines and len(lines) > 10


@pytest.mark.slow
def test_names_and_equality_on_little_data(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    prepare.main(
        ["--interactions", "200000", "--repeats", "1", "--work", str(tmp_path), "--json", str(tmp_path / "out.json")]
    )
    rows = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_text())}
    named = {
        "prepare_speedup_vs_pandas",
        "prepare_core_seconds_vs_pandas",
        "prepare_memory_share_of_pandas",
        "prepare_rows_per_second",
    }
    assert named | {"prepare_peak_memory", "prepare_peak_disk"} == set(rows)
    assert all(row["value"] > 0 for row in rows.values())
