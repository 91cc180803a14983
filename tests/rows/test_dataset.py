"""Rows on disk and the loader, whose whole state is the step."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cprec_jax.artefact import file_sha256
from cprec_jax.config.train import MixtureSpec
from cprec_jax.errors import UserError
from cprec_jax.rows import dataset as rows
from cprec_jax.rows import loader
from cprec_jax.rows.mixture import blend, check_shares, proportions, row_limits
from tests.rows import made_rows
from tests.rows.made_rows import T


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows")
    made_rows.write(path, {"a": (50, 1000), "b": (20, 2000)})
    return path


READER = """
import sys, tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
source = builder.as_data_source(split="b")
row = source[3]
assert len(source) == 20 and row["tokens"].tolist() == [2003] * 20 + [0] * 12
assert row["lengths"].tolist() == [12, 8] and row["row"] == 3
assert row["loss"].tolist() == [0] * 2 + [1] * 18 + [0] * 12 and row["items"].tolist() == [0, 4, 24]
info = builder.info
assert str(info.version) == "1.1.0" and "2504.08949" in info.citation and "2504.08949" in info.homepage
assert "lengths" in info.description
assert {name: split.num_examples for name, split in info.splits.items()} == {"a": 50, "b": 20}
assert sorted(info.features) == ["items", "lengths", "loss", "row", "tokens"] and info.features["tokens"].shape == (32,)
assert not [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "cprec_jax")]
"""


def test_others_can_read_it_with_tfds_alone(directory: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", READER, directory], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_expand_marks_documents_and_padding(directory: Path) -> None:
    row = rows.expand(rows.open_split(directory, "a")[7], source=4)
    assert row["segment_ids"].tolist() == [1] * 12 + [2] * 8 + [0] * 12
    assert row["positions"].tolist() == [*range(12), *range(8), *[0] * 12]
    # The first token of a document has no predecessor, so the second document's is no target although its loss byte is
    # set.
    assert np.flatnonzero(row["loss_mask"]).tolist() == [*range(2, 12), *range(13, 20)]
    assert (row["source"], row["row"]) == (4, 7)


def all_batches(
    directory: Path, first: int, last: int, held: Sequence[int] = range(8), **kwargs: Any
) -> list[np.ndarray]:
    stream = loader.stream(directory, {"a": 0.75, "b": 0.25}, seed=3)
    batches = loader.batches(stream, held, 8, first, last, **kwargs)
    return [batch["tokens"][:, 0] for batch in batches]


def test_any_step_can_be_reached_at_once(directory: Path) -> None:
    batches = all_batches(directory, 0, 30)
    assert len(batches) == 30
    for start in (1, 13, 29):
        np.testing.assert_array_equal(all_batches(directory, start, 30), batches[start:])


@pytest.mark.parametrize("held", [(0, 1, 2, 3), (4, 5), (0, 1, 6, 7), (3,), tuple(range(8))])
def test_a_process_loads_the_rows_that_it_is_asked_for(directory: Path, held: tuple[int, ...]) -> None:
    batches = all_batches(directory, 5, 9)
    part = all_batches(directory, 5, 9, held)
    assert len(part) == len(batches)
    for expected, got in zip(batches, part, strict=True):
        np.testing.assert_array_equal(got, expected[list(held)])


def test_an_epoch_of_a_source_sees_every_row_once(directory: Path) -> None:
    stream = loader.stream(directory, {"a": 1.0}, seed=0)
    first, second = ([int(stream[i]["tokens"][0]) for i in range(k * 50, k * 50 + 50)] for k in (0, 1))
    assert sorted(first) == sorted(second) == list(range(1000, 1050))
    assert first != second


def test_shares_are_kept(directory: Path) -> None:
    seen = np.concatenate(all_batches(directory, 0, 50))
    assert abs((seen < 2000).mean() - 0.75) < 0.01


def test_the_annealing_phase_has_an_order_of_its_own(directory: Path) -> None:
    a = loader.stream(directory, {"a": 1.0}, seed=0)[0]["tokens"]
    b = loader.stream(directory, {"a": 1.0}, seed=0, prefix=10)[0]["tokens"]
    assert not np.array_equal(a, b)


def test_damage_is_a_clear_error(tmp_path: Path) -> None:
    made_rows.write(tmp_path, {"a": (5, 0)})
    shard = next(tmp_path.glob("*.array_record*"))
    shards = {shard.name: file_sha256(shard)}
    rows.check_shards(tmp_path, shards)
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(UserError, match="not the file that was packed"):
        rows.check_shards(tmp_path, shards)
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="split 'a' cannot be read"):
        rows.open_split(tmp_path, "a")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (MixtureSpec(), {"a": 0.6, "b": 0.2, "mixed": 0.2}),
        (MixtureSpec(temperature=0.0), {"a": 1 / 3, "b": 1 / 3, "mixed": 1 / 3}),
        (MixtureSpec(mixed_share=0.5), {"a": 0.375, "b": 0.125, "mixed": 0.5}),
        (MixtureSpec(mixed_share=0.0), {"a": 0.75, "b": 0.25}),
        (MixtureSpec(weights={"a": 0.0}), {"b": 0.5, "mixed": 0.5}),
        (MixtureSpec(temperature=0.5, mixed_share=0.0), {"a": 3**0.5 / (1 + 3**0.5), "b": 1 / (1 + 3**0.5)}),
        (
            MixtureSpec(text_share=0.5),
            {"a": 0.6, "b": 0.2, "mixed": 0.2},
        ),  # no text: left to the others (`check_shares` refuses it)
    ],
)
def test_proportions(spec: MixtureSpec, expected: dict[str, float]) -> None:
    shares = proportions(spec, {"a": 60, "b": 20, "mixed": 20, "empty": 0})
    assert shares == pytest.approx(expected)


def test_a_share_of_what_is_not_there_is_refused() -> None:
    sizes = {"a": 60, "mixed": 0}
    for spec, message in (
        (
            MixtureSpec(text_share=0.1),
            "config.train.mixture.text_share: 0.1 is asked, .* set config.pack.text and pack again",
        ),
        (
            MixtureSpec(mixed_share=0.2),
            "config.train.mixture.mixed_share: 0.2 is asked, but the rows hold no all-domain sequences",
        ),
    ):
        with pytest.raises(UserError, match=message):
            check_shares(spec, sizes, "config.train.mixture")
    check_shares(MixtureSpec(text_share=0.0, mixed_share=0.0), sizes, "config.train.mixture")
    check_shares(MixtureSpec(text_share=0.1), {"a": 60, "text": 5}, "config.train.mixture")


def test_general_text_has_a_share_or_a_weight_of_its_own() -> None:
    sizes = {"a": 60, "b": 20, "mixed": 20, "text": 900}
    assert proportions(MixtureSpec(text_share=0.1), sizes) == pytest.approx(
        {"a": 0.54, "b": 0.18, "mixed": 0.18, "text": 0.1}
    )
    both = proportions(MixtureSpec(text_share=0.2, mixed_share=0.4), sizes)
    assert both == pytest.approx({"a": 0.3, "b": 0.1, "mixed": 0.4, "text": 0.2})
    assert proportions(MixtureSpec(weights={"text": 0.0}), sizes) == pytest.approx({"a": 0.6, "b": 0.2, "mixed": 0.2})
    assert proportions(MixtureSpec(text_share=1.0), sizes) == {"text": 1.0}


def test_an_optional_source_takes_part_where_it_is_asked_for() -> None:
    sizes = {"a": 60, "b": 20, "mixed": 20, "titles": 100}
    assert proportions(MixtureSpec(), sizes) == pytest.approx({"a": 0.6, "b": 0.2, "mixed": 0.2})
    assert proportions(MixtureSpec(weights={"titles": 1.0}), sizes)["titles"] == pytest.approx(0.5)
    assert proportions(MixtureSpec(shares={"titles": 0.1}), sizes) == pytest.approx(
        {"a": 0.54, "b": 0.18, "mixed": 0.18, "titles": 0.1}
    )
    both = proportions(MixtureSpec(shares={"titles": 0.2, "a": 0.3}, mixed_share=0.1), sizes)
    assert both == pytest.approx({"a": 0.3, "b": 0.4, "mixed": 0.1, "titles": 0.2})
    for mixture in (MixtureSpec(weights={"titles": 0.0}), MixtureSpec(shares={"titles": 0.0})):
        assert mixture.asked_sources == frozenset() and "titles" not in proportions(mixture, sizes)
        assert "titles" not in proportions(mixture, {"a": 1})
    assert MixtureSpec(weights={"shuffled": 0.5}, shares={"titles": 0.1}).asked_sources == {"shuffled", "titles"}


def test_mistakes_of_shares() -> None:
    with pytest.raises(ValueError, match=r"mixed_share and shares\['mixed'\] both say"):
        MixtureSpec(mixed_share=0.1, shares={"mixed": 0.1})
    with pytest.raises(ValueError, match=r"text_share 0.6 and shares.titles 0.5 are more than 1 together"):
        MixtureSpec(text_share=0.6, shares={"titles": 0.5})
    with pytest.raises(ValueError, match=r"shares.titles 1.5 must lie in 0..1"):
        MixtureSpec(shares={"titles": 1.5})
    with pytest.raises(UserError, match=r"config.train.mixture.shares.Gamse: no such row source.*did you mean 'Games'"):
        check_shares(MixtureSpec(shares={"Gamse": 0.1}), {"Games": 3}, "config.train.mixture")


def test_a_data_budget_uses_few_rows_and_a_larger_one_the_same_and_more(directory: Path) -> None:
    shares = {"a": 0.75, "b": 0.25}
    assert row_limits(MixtureSpec(), shares, {"a": 50, "b": 20}, T) == {}
    limits = row_limits(MixtureSpec(data_tokens=20 * T), shares, {"a": 50, "b": 20}, T)
    assert limits == {"a": 15, "b": 5}
    assert row_limits(MixtureSpec(data_tokens=72 * T), shares, {"a": 50, "b": 20}, T) == {"b": 18}

    def seen(limit: int, seed: int = 3) -> set[int]:
        stream = loader.stream(directory, {"a": 1.0}, seed=seed, limits={"a": limit})
        first_tokens = [int(stream[i]["tokens"][0]) for i in range(3 * limit)]
        assert all(len(set(first_tokens[k * limit : (k + 1) * limit])) == limit for k in range(3))
        return set(first_tokens)

    assert len(seen(10)) == 10 and seen(10) < seen(25) and seen(10) != seen(10, seed=4)


def test_a_budget_is_for_both_phases() -> None:
    over_all = blend({"a": 0.5, "b": 0.5}, {"a": 0.1, "c": 0.9}, 0.2)
    assert over_all == pytest.approx({"a": 0.42, "b": 0.4, "c": 0.18})
    limits = row_limits(MixtureSpec(data_tokens=100 * T), over_all, {"a": 500, "b": 500, "c": 500}, T)
    assert limits == {"a": 42, "b": 40, "c": 18}


def test_mixture_mistakes() -> None:
    with pytest.raises(UserError, match="did you mean 'Games'"):
        proportions(MixtureSpec(weights={"Gamse": 1.0}), {"Games": 3})
    with pytest.raises(UserError, match="give at least one a weight"):
        proportions(MixtureSpec(weights={"Games": 0.0}), {"Games": 3})
    with pytest.raises(ValueError, match="mixed_share"):
        MixtureSpec(mixed_share=1.5)
    with pytest.raises(ValueError, match="more than 1 together"):
        MixtureSpec(mixed_share=0.7, text_share=0.4)
    with pytest.raises(ValueError, match="temperature"):
        MixtureSpec(temperature=-1.0)
    with pytest.raises(ValueError, match="data_tokens"):
        MixtureSpec(data_tokens=0)
