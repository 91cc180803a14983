"""Nobody loses data without hearing it: the console's counts are the truth, and too large a loss is an error."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_jax.artefact import read_json
from cprec_jax.errors import UserError
from cprec_jax.report.corpus_summary import loss_notes
from tests.data_prep.fuzz import EXAMPLES
from tests.run_jobs import prepare

N_ITEMS, N_USERS, EACH = 20, 12, 10
Row = tuple[str, ...]


def world(seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Interactions, no item twice in a row, and items, as rows of text."""
    rng = random.Random(seed)
    items = [(f"{n + 1:05d}", f"Title {n}") for n in range(N_ITEMS)]
    rows = []
    for user in range(N_USERS):
        wanted = rng.sample(range(N_ITEMS), EACH)
        rows += [(f"u{user}", items[item][0], str(1_500_000_000 + 1000 * n)) for n, item in enumerate(wanted)]
    return rows, items


def written(folder: Path, interactions: list[Row], items: list[Row]) -> dict:
    folder.mkdir(exist_ok=True)
    for name, header, rows in (("inter", "user_id,item_id,timestamp", interactions), ("items", "item_id,title", items)):
        (folder / f"{name}.csv").write_text(
            "".join(",".join(row) + "\n" for row in [(header,), *rows]), encoding="latin-1"
        )
    paths = {"interactions": str(folder / "inter.csv"), "items": str(folder / "items.csv")}
    return {"role": "downstream", "split": "leave_one_out", **paths}


def run(folder: Path, interactions: list[Row], items: list[Row], **section) -> dict:
    source = written(folder, interactions, items)
    prepare({"corpus": {"sources": {"shop": source}, "k_core": 0, "candidates": {"protocols": []}, **section}}, folder)
    return read_json(folder / "corpus" / "manifest.json", made_by="prepare")


# Ways to spoil the rows `hit`: of the interactions, by a change of one; or of the items.
SPOILED_ROWS = {
    "missing user": lambda row: ("", *row[1:]),
    "negative timestamp": lambda row: (*row[:2], "-1"),
    "malformed lines?: too many columns": lambda row: (*row, "x"),
    "unparsable timestamp": lambda row: (*row[:2], "Fri Sep 15 2017"),
    "malformed lines?: missing columns": lambda row: row[:2],
    "interactions? with an unknown item": lambda row: (row[0], row[1].lstrip("0"), row[2]),
    "timestamp that is a date written as a number": lambda row: (*row[:2], "20140105"),
}
SPOILED_ITEMS = {
    "items? without a usable title": lambda row: (row[0], "NaN"),
    "malformed lines?: invalid": lambda row: (row[0], "caf\xe9"),
}


@settings(max_examples=EXAMPLES)
@given(
    kind=st.sampled_from(sorted(SPOILED_ROWS) + sorted(SPOILED_ITEMS)),
    seed=st.integers(0, 99),
    share=st.floats(0, 0.45),
)
def test_the_count_on_the_console_is_the_truth(tmp_path: Path, capsys, kind, seed, share):
    interactions, items = world(seed)
    hit_items = kind in SPOILED_ITEMS
    rows = items if hit_items else interactions
    hit = set(random.Random(seed).sample(range(len(rows)), round(share * len(rows))))
    change = (SPOILED_ITEMS if hit_items else SPOILED_ROWS)[kind]
    spoiled = [change(row) if n in hit else row for n, row in enumerate(rows)]
    lost_ids = {items[n][0] for n in hit} if hit_items else set()
    n_lost = sum(item in lost_ids for _, item, _ in interactions) if hit_items else len(hit)
    capsys.readouterr()
    manifest = run(tmp_path, *((interactions, spoiled) if hit_items else (spoiled, items)), max_lost_share=1.0)
    line = next(line for line in capsys.readouterr().err.splitlines() if "interactions read" in line)
    kept_items = N_ITEMS - len(hit) if hit_items else N_ITEMS
    assert (
        f"{len(interactions)} interactions read, {len(interactions) - n_lost} kept; {N_ITEMS} items read, "
        f"{kept_items} kept" in line
    )
    for account in manifest["losses"]["shop"].values():
        for reason, entry in account["reasons"].items():
            assert entry["cause"] and (entry["example"] or entry["share"] <= 0.01), reason
    if len(hit) > 0.01 * len(rows):
        assert re.search(rf"lost: {len(hit)} \({len(hit) / len(rows):.1%}\) {kind}", line)
    shares = n_lost / len(interactions), (len(hit) / N_ITEMS if hit_items else 0)
    assert line.startswith("warning: ") == (max(shares) > 0.1)
    losses = manifest["losses"]["shop"]
    assert (losses["interactions"]["kept"], losses["items"]["kept"]) == (len(interactions) - n_lost, kept_items)
    notes = loss_notes(manifest)
    assert bool(notes) == (max(shares) > 0.01)
    what = "items" if hit_items else "interactions"
    kept = (
        f"{len(interactions) - n_lost:,} of {len(interactions):,} interactions kept, {kept_items} of {N_ITEMS} items "
        "kept; "
    )
    assert all(
        kept in note and re.search(rf"lost {len(hit)} {what} \(.*\): {kind}.* \(first .*; ", note) for note in notes
    )


@pytest.mark.parametrize("limit", [0.1, 0.3])
def test_more_than_max_lost_share_is_an_error_that_names_the_reason(tmp_path: Path, limit):
    interactions, items = world()
    n = int(limit * len(interactions))
    spoiled = [
        (user, item, "soon") if index < n else (user, item, time)
        for index, (user, item, time) in enumerate(interactions)
    ]
    run(tmp_path, spoiled, items, max_lost_share=limit)
    spoiled[n] = (*spoiled[n][:2], "soon")
    with pytest.raises(
        UserError,
        match=rf"of shop is lost, more than config.corpus.max_lost_share = {limit}: .*{n + 1} \(.*unparsable timestamp",
    ) as caught:
        run(tmp_path, spoiled, items, max_lost_share=limit)
    assert "\n" not in str(caught.value) and "inter.csv: line 2: u0," in str(caught.value)


def test_one_source_is_one_line_and_nothing_lost_says_no_reason(tmp_path: Path, capsys):
    run(tmp_path, *world())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("shop")]
    assert lines == [
        "shop (order by timestamp, split leave_one_out): 120 interactions read, 120 kept; 20 items read, 20 kept"
    ]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda item: item.lstrip("0"), "00001 is 1 among the items: the ids agree without their leading zeros"),
        (lambda item: item + ".0", "00001 is 00001.0 among the items: the ids agree without '.0', which pandas adds"),
        (lambda item: f" {item} ", "the ids agree without the blanks round them"),
        (lambda item: "B" + item, "the ids agree without the letters before the number"),
        (lambda item: "9.78E+12", "no id of the interactions is among the items, where ids are as 9.78E\\+12"),
    ],
)
def test_why_no_id_agrees_is_told_by_a_look_at_the_ids(tmp_path: Path, change, cause):
    interactions, items = world()
    with pytest.raises(
        UserError, match=rf"no interaction is left after cleaning; .*120 \(100.0%\) inter.* unknown item .*{cause}"
    ):
        run(tmp_path, interactions, [(change(item), title) for item, title in items], max_lost_share=1.0)


def test_columns_of_users_and_items_that_are_swapped_are_told(tmp_path: Path):
    interactions, items = world()
    with pytest.raises(
        UserError, match=r"user 00001 is an item of the file of items: are the columns of users and items swapped\?"
    ):
        run(tmp_path, [(item, user, time) for user, item, time in interactions], items)


def test_commas_between_thousands_are_told(tmp_path: Path):
    interactions, items = world()
    quoted = [(user, f'"{1000 + int(item):,}"', time) for user, item, time in interactions]
    with pytest.raises(
        UserError, match=r"1,001 is 1001 among the items: the ids agree without the commas between thousands"
    ):
        run(tmp_path, quoted, [(str(1000 + int(item)), title) for item, title in items])


def test_an_id_is_shown_printable_short_and_with_its_blanks(tmp_path: Path):
    interactions, items = world()
    for change, shown in (
        (lambda item: item + " ", "'00001 '"),
        (lambda item: item + "\x1b[31m", r"00001\x1b[31m"),
        (lambda item: item * 99, "…"),
    ):
        with pytest.raises(UserError) as caught:
            run(tmp_path, [(user, change(item), time) for user, item, time in interactions], items)
        assert f"first item {shown}" in str(caught.value) or (shown == "…" and len(str(caught.value)) < 900)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("word", ["nan", "NaN", "null", "NULL", "None", "n/a", "N/A", "<NA>", " nan "])
def test_words_for_nothing_are_no_titles_unless_they_are_kept(tmp_path: Path, word):
    interactions, items = world()
    spoiled = [(item, word if n < 5 else title) for n, (item, title) in enumerate(items)]
    manifest = run(tmp_path, interactions, spoiled)
    assert manifest["titles"]["null words"] == 5 and manifest["n_items"] == 15
    assert "5 have the title" in manifest["losses"]["shop"]["items"]["reasons"]["item without a usable title"]["cause"]
    manifest = run(tmp_path, interactions, spoiled, titles={"keep_null_words": True})
    assert manifest["n_items"] == 16
    assert manifest["losses"]["shop"]["items"]["reasons"]["item with another's title"]["n"] == 4


@pytest.mark.parametrize("what", ["user", "item"])
def test_an_id_that_is_a_word_for_nothing_is_said(tmp_path: Path, capsys, what):
    interactions, items = world()
    changed = [
        ("nan", item, time) if what == "user" and n < 30 else (user, item, time)
        for n, (user, item, time) in enumerate(interactions)
    ]
    if what == "item":
        changed = [(user, "NaN" if item == "00003" else item, time) for user, item, time in changed]
    n = sum("nan" in (user.lower(), item.lower()) for user, item, _ in changed)
    run(tmp_path, changed, [*items, ("NaN", "Something")])
    assert (
        f"shop: {n} interactions have the {what} id '{'nan' if what == 'user' else 'NaN'}'" in capsys.readouterr().err
    )


@pytest.mark.parametrize("what", ["user", "item"])
def test_ids_that_are_decimals_are_said(tmp_path: Path, capsys, what):
    interactions, items = world()
    decimal = {"user": lambda user, item: (user[1:] + ".0", item), "item": lambda user, item: (user, item + ".0")}[what]
    run(
        tmp_path,
        [(*decimal(user, item), time) for user, item, time in interactions],
        [(decimal("u", item)[1], t) for item, t in items],
    )
    assert (
        f"shop: {what} ids are such as 0" in (console := capsys.readouterr().err)
        and "write them as whole numbers" in console
    )
    run(tmp_path, interactions, items)
    assert "whole numbers" not in capsys.readouterr().err


def test_ids_that_a_spreadsheet_cut_are_an_error(tmp_path: Path):
    interactions, items = world()
    cut = {item: f"9.7{int(item) % 4}E+12" for item, _ in items}
    with pytest.raises(
        UserError, match=r"80.0% of shop is lost.*16 \(80.0%\) items listed again with .*E\+12 are what a spreadsheet"
    ):
        run(
            tmp_path,
            [(user, cut[item], time) for user, item, time in interactions],
            [(cut[item], title) for item, title in items],
        )


def test_what_is_folded_is_said_and_is_no_loss(tmp_path: Path, capsys):
    interactions, items = world()
    manifest = run(tmp_path, interactions * 2, items * 2)
    line = next(line for line in capsys.readouterr().err.splitlines() if "interactions read" in line)
    assert "240 interactions read, 240 kept; 40 items read, 40 kept" in line and not line.startswith("warning")
    assert re.search(
        r"kept but folded: 120 \(50.0%\) exact duplicates \(first user u\d+, item \d{5}, 1500\d{6}; the same user, "
        r"item and",
        line,
    )
    assert "kept but folded: 20 (50.0%) items listed again (first item 00001; the same id and title twice)" in line
    assert manifest["losses"]["shop"]["interactions"]["lost_share"] == 0


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 99), duplicates=st.integers(0, 40), repeats=st.integers(0, 40))
def test_the_example_of_what_is_folded_is_in_the_file(tmp_path: Path, capsys, seed, duplicates, repeats):
    interactions, items = world(seed)
    rng = random.Random(seed)
    again = [(user, item, str(int(time) + 1)) for user, item, time in rng.sample(interactions, repeats)]
    twice = rng.sample(interactions, duplicates)
    manifest = run(tmp_path, interactions + again + twice, items)
    line = next(line for line in capsys.readouterr().err.splitlines() if "interactions read" in line)
    reasons = manifest["losses"]["shop"]["interactions"]["reasons"]
    for reason, rows in (("exact duplicate", twice), ("repeat of the item before", again)):
        assert reasons.get(reason, {"n": 0})["n"] == len(rows)
        examples = {f"user {user}, item {item}, {time}" for user, item, time in rows}
        mentioned = len(rows) > 0.01 * (len(interactions) + duplicates + repeats)
        assert mentioned == (reason.split()[0] in line)
        assert not mentioned or reasons[reason]["example"] in examples
