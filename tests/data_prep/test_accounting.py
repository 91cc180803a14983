"""Whatever the tables hold: every row is kept or counted, or the run is refused in one line."""

from collections import defaultdict
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_jax.artefact import read_json
from cprec_jax.errors import UserError
from data_prep.titles import clean_title
from tests.data_prep.tables import write_lines
from tests.run_jobs import prepare

ITEM = st.sampled_from([f"i{n}" for n in range(6)])
# Items listed twice under different titles, titles that agree after cleaning, empty ones; reviews of items nobody
# lists.
TITLE = st.sampled_from(["One", "Two &amp; a half", "Two & a half", " ", "&nbsp;", "Ünë", "long " * 90])
TITLES = st.lists(st.tuples(ITEM, TITLE), max_size=9)
TIME = st.integers(-3, 40) | st.sampled_from([4_102_444_801, 2**62])
INTERACTIONS = st.lists(st.tuples(st.sampled_from(["ann", "bob", "çem"]), ITEM, TIME), max_size=40)
BROKEN = st.lists(
    st.sampled_from([b"ann", b"ann\ti1\t1\t2", b"\xff\xfe\ti1\t3", b"ann\ti1\tsoon", b"\ti1\t4", b"ann\t\t4"]),
    max_size=4,
)


@settings(max_examples=6)
@given(titles=TITLES, interactions=INTERACTIONS, broken=BROKEN, k_core=st.sampled_from([0, 2, 50]))
def test_rows_in_are_rows_kept_or_counted(tmp_path: Path, titles, interactions, broken, k_core):
    source = {
        "role": "downstream",
        "split": "leave_one_out",
        "interactions": str(write_lines(tmp_path / "inter.tsv", [("user_id", "item_id", "timestamp"), *interactions])),
        "items": str(write_lines(tmp_path / "item.tsv", [("item_id", "title"), *titles])),
    }
    with open(source["interactions"], "ab") as stream:
        stream.writelines(line + b"\n" for line in broken)
    try:
        prepare(
            {
                "corpus": {
                    "sources": {"shop": source},
                    "candidates": {"protocols": ["u3"]},
                    "k_core": k_core,
                    "max_lost_share": 1.0,
                }
            },
            tmp_path,
        )
    except UserError as error:  # nothing to read, or nothing left
        reasons = (
            "no readable rows",
            "no interaction is left after cleaning",
            "neither a training interaction nor a target is left",
        )
        assert "\n" not in str(error) and any(reason in str(error) for reason in reasons)
        return
    manifest = read_json(tmp_path / "corpus" / "manifest.json", made_by="prepare")
    check_counts(manifest, titles, interactions, broken)
    if k_core == 50:
        assert manifest["counts"]["shop"]["after k-core"]["interactions"] == 0


def check_counts(manifest, titles, interactions, broken) -> None:
    steps = {step: n["interactions"] for step, n in manifest["counts"]["shop"].items()}
    n_rejected = defaultdict(int, {reason: entry["n"] for reason, entry in manifest["rejected"].items()})
    losses = manifest["losses"]["shop"]["interactions"]
    assert losses["read"] == len(interactions) + len(broken)
    assert (
        losses["kept"]
        == steps["with a known title"]
        == losses["read"] - sum(e["n"] for e in losses["reasons"].values() if e["lost"])
    )
    # Bad lines: the broken ones and those whose time is none.
    timeless = sum(not 0 <= time <= 4_102_444_800 for _, _, time in interactions)
    unusable = (
        n_rejected["interaction with an unknown item"] + n_rejected["interaction with an item that has no usable title"]
    )
    item_reasons = n_rejected["item without a usable title"] + n_rejected["item listed more than once"]
    assert sum(n_rejected.values()) - unusable - item_reasons == len(broken) + timeless
    assert steps["read"] == len(interactions) - timeless
    good = [(user, item, time) for user, item, time in interactions if 0 <= time <= 4_102_444_800]
    titled = {item for item, title in titles if clean_title(title)}
    assert steps["with a known title"] == sum(item in titled for _, item, _ in good) == steps["read"] - unusable
    assert n_rejected["interaction with an unknown item"] == sum(item not in dict(titles) for _, item, _ in good)
    assert n_rejected["item without a usable title"] == sum(not clean_title(title) for _, title in titles)
    assert manifest["titles"]["read"] == len(titles)
    # the smallest title stands for the item
    one_of = {item: min(cleaned) for item, cleaned in _cleaned(titles).items()}
    merged = {(user, one_of[item], time) for user, item, time in good if item in titled}
    assert (
        steps["without exact duplicates"]
        == len(merged)
        >= steps["without consecutive repeats"]
        >= steps["training period"]
    )
    assert manifest["sets"]["shop"]["n_items"] == len(set(one_of.values()))


def _cleaned(titles) -> dict[str, list[str]]:
    titles_of = defaultdict(list)
    for item, title in titles:
        if clean_title(title):
            titles_of[item].append(clean_title(title)[:300])
    return titles_of
