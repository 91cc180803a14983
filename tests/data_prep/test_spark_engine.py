"""The same corpus from both engines. Needs requirements-spark.txt and Java (make test-spark)."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cprec_jax.config.corpus import SparkSpec
from cprec_jax.corpus import Corpus, hash60
from cprec_jax.errors import UserError
from data_prep.spark_engine import SparkEngine, _heap, _plain_link
from tests.data_prep.tables import numbered_titles, random_interactions, table_source
from tests.run_jobs import made_from, prepare

TIMES = {"t1": 25, "t2": 33}
CUT = {"policy": "distinguish", "max_length": 10}  # "Title 2 [i2]" is too long
PROTOCOLS = {"candidates": {"protocols": ["u3"]}, "spark": {"conf": ["spark.sql.shuffle.partitions=2"]}}


def both(sources: dict, workdir: Path, **section) -> tuple[Corpus, Corpus]:
    """The corpus by DuckDB and the corpus by Spark."""
    corpora = []
    for engine in ("duckdb", "spark"):
        config = {"corpus": {"sources": sources, **PROTOCOLS, **section, "engine": engine}}
        prepare(config, workdir / engine)
        corpora.append(Corpus.open(workdir / engine / "corpus"))
    return corpora[0], corpora[1]


def assert_alike(duckdb: Corpus, spark: Corpus) -> None:
    assert spark.hash == duckdb.hash
    assert (duckdb.manifest["engine"], spark.manifest["engine"]) == ("duckdb", "spark")
    for key in duckdb.manifest.keys() - {"engine", "files", "file_sizes"}:
        assert spark.manifest[key] == duckdb.manifest[key], key
    rows = [{name: entry["rows"] for name, entry in corpus.manifest["files"].items()} for corpus in (duckdb, spark)]
    assert rows[0] == rows[1]


def generated(folder: Path) -> dict[str, dict]:
    """Many ties in time, repeats, duplicates, unknown items, titles that agree after cleaning, an order-only domain,
    odd characters."""
    titles = {**numbered_titles(), "i3": "Title 2", "i4": "", "i5": "Café &amp; 😀", "ï6": "Žluťoučký"}
    odd = [("ü1", "ï6", 3), ("ü1", "i5", 3), ("u1", "nowhere", 5), ("u1", "i4", 6), ("ü1", "i5", 3)]
    return {
        "books": table_source(folder / "books", [*random_interactions(1, span=40), *odd], titles),
        "films": table_source(folder / "films", random_interactions(2, users=90, span=40), titles),
        "plays": table_source(folder / "plays", random_interactions(3, span=40), titles, "pretrain", "position"),
        "songs": table_source(folder / "songs", random_interactions(4, span=40), titles, "downstream"),
    }


@pytest.mark.spark
@pytest.mark.parametrize(
    "section",
    [
        {"k_core": 3, "explain": True, "max_test_users": 20},
        {"k_core": 0, "exclude_test_users": True, "ties": "file", "titles": CUT, "times": {"default": TIMES}},
    ],
)
def test_one_hash_on_generated_data(tmp_path: Path, section):
    duckdb, spark = both(generated(tmp_path), tmp_path, **section)
    assert_alike(duckdb, spark)
    if "titles" in section:
        assert duckdb.manifest["titles"]["cut for the item id"] > 0
    if "explain" in section:
        pictures = [(tmp_path / engine / "corpus" / "explain.md").read_text() for engine in ("duckdb", "spark")]
        assert pictures[0] == pictures[1]
    assert not list(tmp_path.rglob("scratch"))


@pytest.mark.spark
def test_one_hash_on_real_data(shared_data: Path, tmp_path: Path):
    """Two Amazon domains with days for times, hence many ties, and a downstream set with order only."""
    sources = {
        name: {
            "role": role,
            "platform": "amazon",
            "interactions": str(shared_data / folder / "inter.tsv.gz"),
            "items": str(shared_data / folder / "item.tsv.gz"),
        }
        for name, role, folder in (
            ("Food", "pretrain", "amazon7/Food"),
            ("Kitchen", "pretrain", "amazon7/Kitchen"),
            ("scientific18", "downstream", "scientific18"),
        )
    }
    split = {"amazon": {"t1": "2014-01-05", "t2": "2014-04-04"}}
    duckdb, spark = both(sources, tmp_path, k_core={"pretrain": 0, "downstream": 5}, times=split)
    assert_alike(duckdb, spark)
    assert len(spark.sequences("mixed")) > 1000


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A standalone master and one worker on this machine; gives the master's URL."""
    import pyspark

    start = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url, log = f"spark://127.0.0.1:{port}", tmp_path / "cluster.log"
    address = ["--host", "127.0.0.1", "--webui-port", "0"]
    master = [start, "org.apache.spark.deploy.master.Master", *address, "--port", port]
    worker = [start, "org.apache.spark.deploy.worker.Worker", *address, "--cores", "2", "--memory", "1g", url]
    worker += ["--work-dir", str(tmp_path / "worker")]
    with (
        log.open("w") as out,
        subprocess.Popen(master, stderr=out, stdout=out) as first,
        subprocess.Popen(worker, stderr=out) as second,
    ):
        deadline = time.monotonic() + 120
        while "Registering worker" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield url
        second.kill()
        first.kill()


@pytest.mark.spark
def test_one_hash_from_a_cluster(tmp_path: Path, cluster: str):
    """Through spark://, where an executor with a process of its own reads and writes the tables."""
    books = {"books": table_source(tmp_path / "books", random_interactions(1, n=200), numbered_titles())}
    local = [f"spark.driver.{key}=127.0.0.1" for key in ("host", "bindAddress")]
    conf = ["spark.sql.shuffle.partitions=1", "spark.executor.memory=512m", "spark.cores.max=1", *local]
    duckdb, spark_corpus = both(books, tmp_path, spark={"master": cluster, "conf": conf}, k_core=0)
    assert_alike(duckdb, spark_corpus)
    assert list((tmp_path / "worker").glob("app-*/0/stderr")), "an executor of the worker did it"


@pytest.mark.spark
def test_a_work_directory_may_have_any_name(tmp_path: Path):
    sources = {"books": table_source(tmp_path / "books", random_interactions(1, span=40), numbered_titles())}
    assert_alike(*both(sources, tmp_path / "w [1]*,{é}%41", k_core=0))


def test_a_cluster_needs_a_plain_name_of_the_work_directory(tmp_path: Path):
    with pytest.raises(
        UserError,
        match=r"spark.master: on a cluster the work directory must be named with letters, .*not .*/a b; choose",
    ):
        _plain_link(tmp_path / "a b", SparkSpec(master="spark://host:7077"))


@pytest.mark.spark
def test_the_hash_function_is_the_same(tmp_path: Path):
    engine = SparkEngine(tmp_path, SparkSpec(conf=("spark.sql.shuffle.partitions=2",)), threads=1)
    try:
        for text in ("", "a", "Žluť 😀", "1:amazon\x1fA1"):
            assert engine.value(f"SELECT hash60('{text}')") == hash60(text)
    finally:
        engine.close()


class NoSession:
    """Stands for pyspark's SparkSession whose start fails with `message`."""

    def __init__(self, message: str):
        self.message = message
        self.builder = self

    def master(self, name: str) -> "NoSession":
        return self

    def appName(self, name: str) -> "NoSession":
        return self

    def config(self, key: str, value: str) -> "NoSession":
        return self

    def getOrCreate(self) -> None:
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            "[JAVA_GATEWAY_EXITED] Java gateway process exited",
            r"config.corpus.engine: Spark did not start; is Java 17 there",
        ),
        (
            "All masters are\nunresponsive",
            r"config.corpus.spark.master: no session on 'spark://x:7077' \(All masters are unresponsive",
        ),
    ],
)
def test_spark_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure, message):
    monkeypatch.setattr("data_prep.spark_engine._sessions", lambda: NoSession(failure))
    with pytest.raises(UserError, match=message):
        prepare(
            {"corpus": {"sources": generated(tmp_path), "engine": "spark", "spark": {"master": "spark://x:7077"}}},
            tmp_path,
        )
    assert not list(tmp_path.glob("*corpus*"))


def test_the_engine_is_no_input(tmp_path: Path):
    sources = generated(tmp_path)
    inputs = [
        made_from({"corpus": {"sources": sources, "engine": engine}}, tmp_path, "corpus")
        for engine in ("duckdb", "spark")
    ]
    assert inputs[0] == inputs[1]


def test_without_pyspark_the_message_names_the_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    monkeypatch.setitem(sys.modules, "sqlglot", None)
    with pytest.raises(UserError, match=r"config.corpus.engine: 'spark' needs .*pip install -r requirements-spark.txt"):
        prepare({"corpus": {"sources": generated(tmp_path), "engine": "spark"}}, tmp_path)
    assert not (tmp_path / "corpus").exists()


def test_settings():
    assert SparkSpec(conf=("spark.executor.extraJavaOptions=-Da=b",)).settings == {
        "spark.executor.extraJavaOptions": "-Da=b"
    }
    with pytest.raises(ValueError, match=r"write 'spark.key=value'"):
        SparkSpec(conf=("executor.memory",))
    with pytest.raises(ValueError, match=r"write local\[\*\], spark://HOST:PORT"):
        SparkSpec(master="sprak://x:1")
    assert [_heap(size) for size in ("4GB", "1.5 GiB", "100MB")] == ["4096m", "1536m", "1024m"]
    with pytest.raises(UserError, match="'much' is not a size"):
        _heap("much")
