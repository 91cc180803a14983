"""Files of every adapter with bytes flipped, put in and cut off: read and counted, or refused in one line that names
the file."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cprec_jax.errors import UserError
from tests.data_prep.adapters.loading import Loaded

N = 30
REVIEWS = [json.dumps({"user_id": f"u{n % 7}", "parent_asin": f"i{n % 5}", "timestamp": 1000 + n}) for n in range(N)]
OLD = [repr({"reviewerID": f"u{n % 7}", "asin": f"i{n % 5}", "unixReviewTime": 1000 + n}) for n in range(N)]
# adapter -> (name, lines) of the interactions and of the items
FILES: dict[str, tuple[tuple[str, list[str]], tuple[str, list[str]]]] = {
    "table": (
        ("inter.tsv", ["user_id\titem_id\ttimestamp", *(f"u{n % 7}\ti{n % 5}\t{n}" for n in range(N))]),
        ("item.csv", ["item_id,title", *(f'i{n},"Title, {n}"' for n in range(5))]),
    ),
    "amazon2014": (("r.json", OLD), ("m.json", [repr({"asin": f"i{n}", "title": f"It's {n}"}) for n in range(5)])),
    "amazon2018": (
        ("r.json", OLD),
        ("m.json", [json.dumps({"asin": f"i{n}", "title": f"Title {n}"}) for n in range(5)]),
    ),
    "amazon2023": (
        ("r.jsonl", REVIEWS),
        ("m.jsonl", [json.dumps({"parent_asin": f"i{n}", "title": f"é {n}"}) for n in range(5)]),
    ),
    "movielens": (
        ("ratings.dat", [f"{n % 7}::{n % 5}::5::{1000 + n}" for n in range(N)]),
        ("movies.dat", [f"{n}::Film {n}::Drama" for n in range(5)]),
    ),
    "ninerec": (
        ("X_pair.csv", [f"u{n % 7},v{n % 5},{1000 + n}" for n in range(N)]),
        ("X_item.csv", [f"v{n},标题,Title {n}" for n in range(5)]),
    ),
}
KIND, BYTE = st.sampled_from(["flip", "insert", "cut"]), st.sampled_from([b"\x00", b"\xff", b"\n", b'"', b"\t", b"{"])
DAMAGE = st.lists(st.tuples(KIND, st.integers(0, 10**6), BYTE), min_size=1, max_size=4)


def damaged(content: bytes, damage: list[tuple[str, int, bytes]]) -> bytes:
    for kind, position, what in damage:
        offset = position % (len(content) or 1)
        after = b"" if kind == "cut" else what + content[offset + (kind == "flip") :]
        content = content[: max(offset, len(content) // 2) if kind == "cut" else offset] + after
    return content


def content_begins(path: Path, adapter: str) -> bool:
    """Whether the header, where there is one, is as it was."""
    return adapter != "table" or path.read_bytes().startswith(FILES["table"][0][1][0].encode() + b"\n")


@pytest.mark.parametrize("adapter", FILES)
@settings(max_examples=8)
@given(damage=DAMAGE, which=st.booleans(), packing=st.sampled_from(["plain", "inside gzip", "gzip itself"]))
# bytes that DuckDB reads and Python does not
@example(damage=[("insert", 126009, b"\xff")], which=False, packing="gzip itself")
@example(damage=[("flip", 0, b'"')], which=True, packing="plain")  # a header that goes on in the next line
def test_damaged_files(tmp_path: Path, adapter, damage, which, packing):
    pack: Callable[[bytes], bytes] = gzip.compress if packing != "plain" else bytes
    paths = []
    for n, (name, lines) in enumerate(FILES[adapter]):
        content = "".join(line + "\n" for line in lines).encode()
        hit = n == int(which)
        content = pack(damaged(content, damage) if hit and packing != "gzip itself" else content)
        paths.append(tmp_path / (name + (".gz" if packing != "plain" else "")))
        paths[-1].write_bytes(damaged(content, damage) if hit and packing == "gzip itself" else content)
    try:
        loaded = Loaded(adapter, *paths)
    except UserError as error:
        assert "\n" not in str(error) and any(str(path) in str(error) for path in paths)
        return
    # A byte of a gzip file may change a field's name in every line: then all of them are refused, and counted.
    assert len(loaded.interactions) + loaded.refused() > 0 and len(loaded.interactions) <= N + len(damage)
    assert len(loaded.items) <= 5 + len(damage)
    if (
        packing == "plain"
        and not which
        and all(kind != "cut" for kind, _, _ in damage)
        and content_begins(paths[0], adapter)
    ):
        assert len(loaded.interactions) + loaded.refused() >= N - 2 * len(damage)
