"""A data file is a file: whatever characters its path has, and whatever lies beside it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cprec_jax.errors import UserError
from tests.data_prep.adapters.loading import Loaded
from tests.data_prep.fuzz import EXAMPLES
from tests.data_prep.tables import corpus_of

HEADER, ITEMS = "user_id,item_id,timestamp\n", "item_id,title\na,Apple\nb,Pear\n"
# Any character that a file system takes; half a surrogate pair is refused in a config.
CHARACTER = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
NAME = st.text(CHARACTER, min_size=1, max_size=12).filter(lambda name: name not in "..")
PIECES = ["*", "?", "[", "]", "{", "}", "!", "**", "\\", "~", "$HOME", "a", "1", "=", "%", "'", '"', "\n", "😀"]
PATTERNS = st.lists(st.sampled_from(PIECES), max_size=6)


def parquet(path: Path, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def interactions(path: Path, times: list[int], user: str = "u") -> Path:
    return parquet(path, user_id=[user] * len(times), item_id=["a"] * len(times), timestamp=times)


@settings(max_examples=EXAMPLES)
@given(
    folder=NAME | PATTERNS.map(lambda parts: "d" + "".join(parts)),
    name=PATTERNS.map("".join),
    kind=st.sampled_from(["csv", "parquet"]),
)
@example(folder="timestamp=1700000000", name="x", kind="parquet")
@example(folder="a*b", name="inter[2]", kind="csv")
@example(folder="\\", name="\\[1]", kind="csv")
def test_any_path_is_the_file_of_that_name_and_no_other(tmp_path: Path, folder, name, kind):
    directory = tmp_path / "data" / folder
    try:
        directory.mkdir(parents=True, exist_ok=True)
        neighbour = directory / f"{name}x.{kind}"
        for n in "0123456789abcxz":  # what a pattern could take for it
            (directory / f"inter{n}.{kind}").write_text("user_id,item_id,timestamp\nwrong,a,1\n")
        if kind == "csv":
            neighbour.write_text(HEADER + "right,a,5\n")
        else:
            interactions(neighbour, [5], "right")
    except OSError:
        assume(False)  # the file system does not take this name
    (directory / "items.csv").write_text(ITEMS)
    assert Loaded("table", neighbour, directory / "items.csv").interactions == [("right", "a", 5)]


def test_a_file_with_brackets_is_read_and_not_its_neighbour(tmp_path: Path):
    (tmp_path / "inter[2].csv").write_text(HEADER + "right,a,5\n")
    (tmp_path / "inter2.csv").write_text(HEADER + "wrong,a,5\n")
    (tmp_path / "items.csv").write_text(ITEMS)
    loaded = Loaded("table", tmp_path / "inter[2].csv", tmp_path / "items.csv")
    assert loaded.interactions == [("right", "a", 5)]


def test_a_folder_that_looks_like_a_partition_does_not_replace_a_column(tmp_path: Path):
    path = interactions(tmp_path / "timestamp=1700000000" / "user_id=x" / "p.parquet", [5, 7])
    (tmp_path / "items.csv").write_text(ITEMS)
    assert [time for _, _, time in Loaded("table", path, tmp_path / "items.csv").interactions] == [5, 7]


def test_a_work_directory_may_have_patterns_in_its_name(tmp_path: Path):
    source = {
        "role": "downstream",
        "split": "leave_one_out",
        "interactions": str(tmp_path / "i.csv"),
        "items": str(tmp_path / "items.csv"),
    }
    (tmp_path / "i.csv").write_text(HEADER + "u,a,5\nu,b,6\nu,a,7\n")
    (tmp_path / "items.csv").write_text(ITEMS)
    hashes = {corpus_of(tmp_path / name, {"s": source}, k_core=0).hash for name in ("plain", "w[1]*", "timestamp=5")}
    assert len(hashes) == 1


def test_a_directory_is_all_its_parquet_parts_in_the_order_of_their_names(tmp_path: Path):
    folder = tmp_path / "inter.parquet"
    for n, times in enumerate(([5, 6], [7], [8, 9])):
        interactions(folder / f"part-{n:05d}.parquet", times)
    for name in ("_SUCCESS", ".part-00000.parquet.crc", "_metadata.parquet", "notes.txt", "._part-00000.parquet"):
        (folder / name).write_text("no part")
    (folder / "year=2020").mkdir()
    parquet(tmp_path / "items" / "0.parquet", item_id=["a"], title=["Apple"])
    parquet(tmp_path / "items" / "1.parquet", item_id=["b"], title=["Pear"])
    loaded = Loaded("table", folder, tmp_path / "items")
    assert [time for _, _, time in loaded.interactions] == [5, 6, 7, 8, 9]
    assert loaded.items == [("a", "Apple"), ("b", "Pear")]


def test_a_part_may_be_empty_as_spark_writes_them_but_not_all_of_them(tmp_path: Path):
    folder = tmp_path / "inter"
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())])
    for name in ("a", "c"):
        interactions(folder / f"{name}.parquet", [])
        pq.write_table(schema.empty_table(), folder / f"{name}.parquet")
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "none.csv").write_text("item_id,title\n")
    with pytest.raises(
        UserError,
        match=r"shop.interactions: no readable rows in .*a.parquet, .*c.parquet; an empty interactions file makes",
    ):
        Loaded("table", folder, tmp_path / "items.csv")
    interactions(folder / "b.parquet", [5, 6])
    source = {"role": "downstream", "split": "leave_one_out", "interactions": str(folder)}
    source["items"] = [str(tmp_path / "none.csv"), str(tmp_path / "items.csv")]
    corpus = corpus_of(tmp_path, {"s": source}, k_core=0)
    assert corpus.manifest["counts"]["s"]["read"]["interactions"] == 2 and corpus.manifest["n_items"] == 2
    with pytest.raises(
        UserError, match=r"none.csv: no readable rows after the header; an empty items file makes no corpus"
    ):
        Loaded("table", folder, tmp_path / "none.csv")


def test_parts_in_folders_below_are_not_passed_over_in_silence(tmp_path: Path):
    interactions(tmp_path / "inter" / "p.parquet", [5])
    interactions(tmp_path / "inter" / "year=2020" / "p.parquet", [6])
    (tmp_path / "items.csv").write_text(ITEMS)
    with pytest.raises(
        UserError,
        match=r"shop.interactions: .*inter has parts in year=2020, too, and no folder below is read; list the files",
    ):
        Loaded("table", tmp_path / "inter", tmp_path / "items.csv")


def test_ties_keep_the_order_of_the_parts_and_bad_rows_name_their_part(tmp_path: Path):
    interactions(tmp_path / "inter" / "b.parquet", [5, -1])
    interactions(tmp_path / "inter" / "a.parquet", [-2, 6, -3])
    (tmp_path / "items.csv").write_text(ITEMS)
    loaded = Loaded("table", tmp_path / "inter", tmp_path / "items.csv")
    assert loaded.rejected == {"negative timestamp": 3}
    shown = [sample.split("/")[-1].split(":")[:2] for sample in loaded.samples["negative timestamp"]]
    assert shown == [["a.parquet", " row 1"], ["a.parquet", " row 3"], ["b.parquet", " row 2"]]


def test_a_list_of_files_is_one_table_whatever_their_formats(tmp_path: Path):
    one, two = interactions(tmp_path / "one.parquet", [5]), tmp_path / "two.csv"
    two.write_text(HEADER + "v,b,6\n")
    (tmp_path / "items.csv").write_text(ITEMS)
    source = {
        "role": "downstream",
        "split": "leave_one_out",
        "interactions": [str(one), str(two)],
        "items": str(tmp_path / "items.csv"),
    }
    corpus = corpus_of(tmp_path, {"s": source}, k_core=0)
    files = corpus.manifest["sources"]["s"]["files"]
    assert {which: Path(file["path"]).name for which, file in files.items()} == {
        "interactions[0]": "one.parquet",
        "interactions[1]": "two.csv",
        "items": "items.csv",
    }
    assert corpus.manifest["counts"]["s"]["read"]["interactions"] == 2


def test_what_is_no_file_is_named(tmp_path: Path):
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"shop.interactions: .*empty is a directory without a \*\.parquet file; give a file, or a list"
    ):
        Loaded("table", tmp_path / "empty", tmp_path / "items.csv")
    with pytest.raises(
        UserError, match=r"sources.shop.interactions: adapter 'movielens' reads one file here, not 2"
    ) as caught:
        several = {
            "role": "pretrain",
            "adapter": "movielens",
            "interactions": ["ratings.dat", "more.dat"],
            "items": "movies.dat",
        }
        corpus_of(tmp_path, {"shop": several})
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        Loaded("table", tmp_path / "two\nlines.csv", tmp_path / "items.csv")
    assert "\n" not in str(caught.value) and r"two\nlines.csv is not a file" in str(caught.value)
    with pytest.raises(UserError, match=r"is not a file"):
        Loaded("table", tmp_path / ("x" * 300), tmp_path / "items.csv")


def test_a_file_named_like_an_address_is_a_file(tmp_path: Path):
    (tmp_path / "s3:").mkdir()
    (tmp_path / "s3:" / "i.csv").write_text(HEADER + "u,a,5\n")
    (tmp_path / "items.csv").write_text(ITEMS)
    source = {"role": "downstream", "split": "leave_one_out", "interactions": "s3:/i.csv", "items": "items.csv"}
    assert (
        corpus_of(tmp_path, {"s": source}, root=str(tmp_path), k_core=0).manifest["counts"]["s"]["read"]["interactions"]
        == 1
    )


def test_a_file_whose_name_begins_with_a_tilde_wins_over_a_home_directory(tmp_path: Path):
    (tmp_path / "~inter.csv").write_text(HEADER + "u,a,5\n")
    (tmp_path / "items.csv").write_text(ITEMS)
    source = {"role": "downstream", "split": "leave_one_out", "interactions": "~inter.csv", "items": "items.csv"}
    assert (
        corpus_of(tmp_path, {"s": source}, root=str(tmp_path), k_core=0).manifest["counts"]["s"]["read"]["interactions"]
        == 1
    )
