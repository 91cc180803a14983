"""Runs the SQL of `sql/` on Spark: the same statements, carried over by sqlglot. The only importer of pyspark and
sqlglot.

Adapters still read the raw files with the embedded DuckDB (`loader`), a stream that one machine does well; `share`
hands its tables to Spark as Parquet, and from there on every step runs on Spark. Tables are Parquet below the work
directory, so on a cluster (`spark://...`) the work directory must lie on storage that the driver and all workers see
under the same path.
"""

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cprec_jax.config.corpus import SparkSpec
from cprec_jax.errors import UserError, one_line, shown
from data_prep.engine import Engine, statements

REQUIREMENTS = "requirements-spark.txt"
_PLAIN = re.compile(r"[\w/.=@+~-]+", re.ASCII)  # paths that Hadoop, the JVM and `spark.local.dir` take as they stand
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT])(i?)B?\s*$", re.IGNORECASE)
_MEBIBYTES = {"K": 2.0**-10, "M": 1.0, "G": 2.0**10, "T": 2.0**20}
_LEAST_HEAP = 1024  # MiB; Spark does not start with less than about half of it
# The first 60 bits of the MD5 of the UTF-8 text, equal to `cprec_jax.corpus.hash60`.
_HASH60 = (
    "CREATE TEMPORARY FUNCTION hash60(x STRING) RETURNS BIGINT RETURN CAST(conv(substr(md5(CAST(x AS BINARY)), 1, "
    "15), 16, 10) AS BIGINT)"
)


class SparkEngine:
    """One Spark session with its tables in `scratch`; answers as `engine.Relational` says."""

    def __init__(self, scratch: Path, spec: SparkSpec, memory_limit: str = "4GB", threads: int | None = None):
        session = _sessions()
        self.loader = Engine(scratch, memory_limit, threads)
        self._link: Path | None = None
        try:
            self._scratch = scratch.resolve()
            if not _PLAIN.fullmatch(str(self._scratch)):
                self._scratch = self._link = _plain_link(self._scratch, spec)
            self._spark = _start(session, self._scratch, spec, memory_limit, threads)
        except Exception:
            self._close_files()
            raise
        self._spark.sql(_HASH60)

    def close(self) -> None:
        self._spark.stop()
        self._close_files()

    def _close_files(self) -> None:
        self.loader.close()
        if self._link is not None:
            self._link.unlink(missing_ok=True)
            self._link.parent.rmdir()

    def share(self, *tables: str) -> None:
        for name in tables:
            path = self._scratch / "shared" / f"{name}.parquet"
            self.loader.write_parquet(f"SELECT * FROM {name}", path)
            # A table that is shared again must not be read from the listing or the pages of the file before.
            self._spark.catalog.refreshByPath(path.as_uri())
            self._spark.read.parquet(path.as_uri()).createOrReplaceTempView(name)

    def execute(self, sql: str) -> None:
        self._run(sql)

    def script(self, name: str) -> None:
        for statement in statements(name):
            self.execute(statement)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in _answer(lambda: self._run(sql).collect())]

    def value(self, sql: str) -> Any:
        return self.rows(sql)[0][0]

    def write_parquet(self, sql: str, path: Path) -> None:
        """The workers write parts in the query's order; they are joined here, a row group at a time."""
        parts = self._scratch / "parts"
        shutil.rmtree(parts, ignore_errors=True)
        _answer(lambda: self._run(sql).write.parquet(parts.as_uri(), compression="zstd"))
        path.parent.mkdir(parents=True, exist_ok=True)
        names = sorted(parts.glob("part-*.parquet"))
        assert names, "Spark writes at least one part, also of nothing"
        schema = pq.read_schema(names[0]).remove_metadata()
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for name in names:
                with pq.ParquetFile(name) as part:
                    for batch in part.iter_batches():
                        writer.write_batch(batch.replace_schema_metadata(None))
        shutil.rmtree(parts)

    def _run(self, sql: str) -> Any:
        return _answer(lambda: self._spark.sql(to_spark(sql)))


def to_spark(sql: str) -> str:
    """One statement of DuckDB's SQL in Spark's."""
    import sqlglot

    return sqlglot.transpile(sql, read="duckdb", write="spark")[0]


def _sessions() -> Any:
    try:
        import sqlglot  # noqa: F401
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise UserError(
            f"config.corpus.engine: 'spark' needs {error.name}, which is not installed; pip install -r {REQUIREMENTS} "
            "(and Java 17)"
        ) from error
    return SparkSession


def _plain_link(folder: Path, spec: SparkSpec) -> Path:
    """A link to `folder`, whose path has characters that Spark reads as a pattern, a list, an escape or not at all."""
    if not spec.master.startswith("local"):
        raise UserError(
            "config.corpus.spark.master: on a cluster the work directory must be named with letters, digits and "
            "-._=@+~ alone, "
            f"not {shown(folder)}; choose another --workdir"
        )
    link = Path(tempfile.mkdtemp(prefix="cprec-spark-")) / "scratch"
    link.symlink_to(folder, target_is_directory=True)
    return link


def _start(session: Any, scratch: Path, spec: SparkSpec, memory_limit: str, threads: int | None) -> Any:
    local = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.shuffle.partitions": "16",
    }
    master = f"local[{threads}]" if threads and spec.master == "local[*]" else spec.master
    settings = {
        "spark.driver.memory": _heap(memory_limit),
        "spark.local.dir": str(scratch / "spill"),
        "spark.log.level": "ERROR",
        "spark.sql.catalogImplementation": "in-memory",
        # Larger offsets are found by a sort on the workers, not in the driver's memory.
        "spark.sql.execution.topKSortFallbackThreshold": "1000000",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": (scratch / "tables").as_uri(),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        **(local if spec.master.startswith("local") else {}),
        **spec.settings,
    }
    builder = session.builder.master(master).appName("cprec_jax prepare")
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except Exception as error:  # pyspark's, py4j's and the JVM's errors have no base of their own
        text = one_line(error)
        if "JAVA_GATEWAY_EXITED" in text:
            raise UserError(
                f"config.corpus.engine: Spark did not start; is Java 17 there (JAVA_HOME)? ({text[:200]})"
            ) from error
        raise UserError(f"config.corpus.spark.master: no session on {master!r} ({text[:200]})") from error


def _heap(memory_limit: str) -> str:
    """A size as DuckDB takes it ('4GB', '512MiB') for the JVM."""
    match = _SIZE.match(memory_limit)
    if not match:
        raise UserError(f"config.corpus.memory_limit: {memory_limit!r} is not a size such as '4GB'")
    return f"{max(int(float(match[1]) * _MEBIBYTES[match[2].upper()]), _LEAST_HEAP)}m"


def _answer(query: Callable[[], Any]) -> Any:
    """What Spark answers; a full disk and too little memory are the user's to mend."""
    try:
        return query()
    except Exception as error:
        text = one_line(error)
        if "No space left on device" in text:
            raise UserError("the disk is full; free some space and run again (nothing was replaced)") from error
        if "OutOfMemoryError" in text:
            raise UserError("config.corpus.memory_limit: too small for this data on Spark; raise it") from error
        raise
