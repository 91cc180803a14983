from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_jax.corpus import hash60, user_key
from cprec_jax.errors import UserError
from data_prep.engine import SQL_FOLDER, Engine, identifier, quoted


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = Engine(tmp_path_factory.mktemp("engine"))
    yield engine
    engine.close()


@given(text=st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_hash60_is_the_same_in_sql_and_python(engine, text):
    assert engine.value(f"SELECT hash60({quoted(text)})") == hash60(text)
    assert 0 <= hash60(text) < 2**60


def test_user_key_is_the_expression_of_the_sql(engine):
    assert engine.value("SELECT hash60('amazon' || chr(31) || 'A1')") == user_key("amazon", "A1")
    assert user_key("amazon", "A1") != user_key("movielens", "A1")


def test_quoting(engine):
    assert engine.value(f"SELECT {quoted(chr(39) + 'x')} AS {identifier('a' + chr(34))}") == "'x"


def test_insert_and_batches_and_parquet(engine, tmp_path: Path):
    engine.execute("CREATE TABLE pairs (b VARCHAR, a BIGINT)")
    engine.insert("pairs", ["a", "b"], pa.table({"a": [2, 1], "b": ["y", "x"]}))
    assert engine.rows("SELECT a, b FROM pairs ORDER BY a") == [(1, "x"), (2, "y")]
    seen = []
    for batch in engine.batches("SELECT a FROM pairs ORDER BY a"):
        seen += batch["a"].to_pylist()
        engine.execute("CREATE OR REPLACE TABLE between AS SELECT 1 AS one")
    assert seen == [1, 2]
    engine.write_parquet("SELECT a, b FROM pairs ORDER BY a", tmp_path / "deep" / "pairs.parquet")
    assert pq.read_table(tmp_path / "deep" / "pairs.parquet").to_pydict() == {"a": [1, 2], "b": ["x", "y"]}


def test_memory_limit_must_be_a_size(tmp_path: Path):
    with pytest.raises(UserError, match=r"config.corpus.memory_limit: 'much' is not a size"):
        Engine(tmp_path, memory_limit="much")


def test_sql_has_no_ordered_array_agg():
    """sqlglot loses the order of `array_agg(x ORDER BY y)` on its way to Spark without a word."""
    for path in SQL_FOLDER.glob("*.sql"):
        text = " ".join(path.read_text().lower().split())
        for piece in text.split("array_agg(")[1:]:
            assert " order by " not in piece[: piece.find(" from ")], path.name
