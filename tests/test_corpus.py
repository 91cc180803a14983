"""The reader: what it gives, and that it refuses what is damaged."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_jax.artefact import file_sha256
from cprec_jax.corpus import Corpus, flat_lists
from cprec_jax.errors import UserError
from tests.run_jobs import prepare


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("reader")
    roles = {"toys": "pretrain", "games": "pretrain", "garden": "downstream"}
    sources = {name: {"role": role, "adapter": "synthetic"} for name, role in roles.items()}
    synthetic = {"users": 200, "items": 40, "tastes": 5, "interactions": 20.0}
    prepare(
        {"corpus": {"sources": sources, "synthetic": synthetic, "k_core": 0, "candidates": {"protocols": ["u20"]}}},
        workdir,
    )
    return workdir / "corpus"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "corpus")
    return tmp_path / "corpus"


def rewrite(folder: Path, name: str, change) -> None:
    """Change a table and make the manifest vouch for it, so that only the content is wrong."""
    table = change(pq.read_table(folder / name, partitioning=None))
    pq.write_table(table, folder / name)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"rows": len(table), "sha256": file_sha256(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replaced(table: pa.Table, column: str, values) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type))


def test_everything_has_the_promised_shape_and_type(made: Path):
    corpus = Corpus.open(made)
    assert corpus.domains == ["toys", "games", "garden"] and len(corpus.hash) == 64
    assert len(corpus.items) == len(corpus.items.title) == 120
    assert corpus.items.domain.dtype == np.int16 and corpus.items.train_count.dtype == np.int64
    assert corpus.catalogue("garden").tolist() == list(range(80, 120)) and corpus.catalogue("garden").dtype == np.int32
    assert corpus.set_info("garden").role == "downstream" and corpus.set_info("toys").split == "time"
    for split, name in (("domain", "toys"), ("mixed", "all"), ("sft", "garden")):
        sequences = corpus.sequences(split, name)
        types = [
            getattr(sequences, field).dtype for field in ("user", "domain", "offsets", "items", "item_domains", "times")
        ]
        assert types == [np.int64, np.int16, np.int64, np.int32, np.int16, np.int64]
        assert sequences.offsets[-1] == len(sequences.items) == len(sequences.times) == len(sequences.item_domains)
        assert np.array_equal(corpus.items.domain[sequences.items], sequences.item_domains)
    for split in ("valid", "test"):
        targets = corpus.targets(split, "garden")
        n = len(targets)
        assert (targets.target.dtype, targets.untied.dtype, targets.seen.dtype) == (np.int32, np.bool_, np.bool_)
        candidates = corpus.candidates(split, "garden", "u20")
        assert candidates.shape == (n, 20) and candidates.dtype == np.int32
        assert set(corpus.items.domain[candidates].ravel()) == {2}
        oracle = corpus.oracle(split, "garden")
        assert oracle.shape == (n, 40) and oracle.dtype == np.float32


def test_absent(tmp_path: Path):
    with pytest.raises(UserError, match=r"manifest.json: not found; run `launch.py prepare`"):
        Corpus.open(tmp_path / "corpus")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda corpus: corpus.catalogue("gardn"), "no set 'gardn'; did you mean 'garden'"),
        (lambda corpus: corpus.sequences("domain", "garden"), r"domain/garden.parquet: not part of this corpus"),
        (
            lambda corpus: corpus.candidates("test", "garden", "u100"),
            r"add 'u100' to config.corpus.candidates.protocols",
        ),
    ],
)
def test_what_is_not_there(made: Path, ask, message):
    with pytest.raises(UserError, match=message):
        ask(Corpus.open(made))


def test_broken_manifest(copy: Path):
    manifest = copy / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "version": 99}))
    with pytest.raises(UserError, match="corpus version 99"):
        Corpus.open(copy)
    del content["sets"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no 'sets'"):
        Corpus.open(copy)
    manifest.write_text('{"version": 1,')
    with pytest.raises(UserError, match="damaged"):
        Corpus.open(copy)


def test_missing_truncated_and_flipped_files(copy: Path):
    path = copy / "sequences" / "test" / "garden.parquet"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:], b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"garden.parquet: not the file the manifest describes"):
            Corpus.open(copy).targets("test", "garden")
    path.unlink()
    with pytest.raises(UserError, match=r"garden.parquet: missing"):
        Corpus.open(copy)


def test_content_that_contradicts_itself(copy: Path):
    test, candidates = "sequences/test/garden.parquet", "candidates/test.garden.u20.parquet"
    rewrite(copy, candidates, lambda table: table.slice(1))
    with pytest.raises(UserError, match="users or targets differ"):
        Corpus.open(copy).candidates("test", "garden", "u20")
    rewrite(copy, "oracle/test.garden.parquet", lambda table: table.slice(1))
    with pytest.raises(UserError, match="does not fit"):
        Corpus.open(copy).oracle("test", "garden")
    rewrite(copy, test, lambda table: replaced(table, "times", [row[1:] for row in table["times"].to_pylist()]))
    with pytest.raises(UserError, match="'times' has other lengths"):
        Corpus.open(copy).targets("test", "garden")
    rewrite(
        copy,
        "sequences/sft/garden.parquet",
        lambda table: replaced(table, "items", [[999] * len(row) for row in table["items"].to_pylist()]),
    )
    with pytest.raises(UserError, match=r"outside 0\.\.119"):
        Corpus.open(copy).sequences("sft", "garden")
    rewrite(copy, "items.parquet", lambda table: table.slice(1))
    with pytest.raises(UserError, match="item numbers"):
        Corpus.open(copy).catalogue("garden")


def test_candidates_without_their_target(copy: Path):
    def rolled(table: pa.Table) -> pa.Table:
        return replaced(table, "candidates", [[row[0]] * len(row) for row in table["candidates"].to_pylist()])

    rewrite(copy, "candidates/valid.garden.u20.parquet", rolled)
    with pytest.raises(UserError, match="without their target"):
        Corpus.open(copy).candidates("valid", "garden", "u20")


def test_candidates_are_distinct_and_of_the_catalogue(copy: Path):
    """One negative for all would make every rank the first or second; a negative of another set beats nobody."""
    file, target = "candidates/test.garden.u20.parquet", Corpus.open(copy).targets("test", "garden").target
    elsewhere = int(np.flatnonzero(Corpus.open(copy).items.domain != Corpus.open(copy).set_info("garden").domain_id)[0])

    def change(table: pa.Table, negative: int | None) -> pa.Table:
        rows = table["candidates"].to_pylist()
        negatives = [item for item in rows[0] if item != target[0]]
        rows[0] = [int(target[0]), *negatives[:-1], negatives[0] if negative is None else negative]
        return replaced(table, "candidates", rows)

    for negative in (None, elsewhere):
        rewrite(copy, file, lambda table, negative=negative: change(table, negative))
        with pytest.raises(UserError, match="a candidate twice, or of another set's catalogue"):
            Corpus.open(copy).candidates("test", "garden", "u20")
    rewrite(
        copy,
        "sequences/test/garden.parquet",
        lambda table: replaced(table, "items", [[elsewhere] * len(row) for row in table["items"].to_pylist()]),
    )
    with pytest.raises(UserError, match="a history has an item of another set's catalogue"):
        Corpus.open(copy).targets("test", "garden")


def test_flat_lists_of_slices_and_chunks():
    column = pa.chunked_array(
        [pa.array([[1], [2, 3], []], pa.list_(pa.int32())).slice(1), pa.array([[4]], pa.list_(pa.int32()))]
    )
    offsets, values = flat_lists(column)
    assert (offsets.tolist(), values.tolist()) == ([0, 2, 2, 3], [2, 3, 4])
    offsets, values = flat_lists(pa.chunked_array([], pa.list_(pa.int32())))
    assert (offsets.tolist(), values.tolist(), values.dtype) == ([0], [], np.int32)
