"""Clocks: what is read as which second, and numbers and texts that are no times."""

import datetime
import zoneinfo
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cprec_jax.errors import UserError
from tests.data_prep.adapters.loading import Loaded, write
from tests.data_prep.fuzz import EXAMPLES

ITEMS = ["item_id,title", "a,Apple"]
FIRST, LAST = datetime.datetime(1971, 1, 1), datetime.datetime(2099, 12, 30)
ZONES = sorted(
    name
    for name in zoneinfo.available_timezones()
    if "/" in name and not name.startswith(("posix/", "right/", "SystemV/"))
)
OFFSET = st.integers(-15 * 60, 15 * 60).map(lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes)))


def load(folder: Path, times: list[str], **source) -> Loaded:
    """Interactions with these times, as text of a CSV file."""
    lines = ["user_id,item_id,timestamp", *(f'u{n},a,"{time}"' for n, time in enumerate(times))]
    return Loaded("table", write(folder / "inter.csv", lines), write(folder / "items.csv", ITEMS), **source)


def seconds(folder: Path, times: list[str], **source) -> list[int]:
    loaded = load(folder, times, **source)
    assert not loaded.rejected, loaded.samples
    by_user = {user: time for user, _, time in loaded.interactions}
    return [by_user[f"u{n}"] for n in range(len(times))]


def written(moment: datetime.datetime, style: str) -> str:
    """The moment with its offset as programs write it."""
    text = moment.isoformat(
        " " if "blank" in style else "T", timespec="microseconds" if "fraction" in style else "seconds"
    )
    if "colon" not in style and text[-3] == ":":
        text = text[:-3] + text[-2:]
    return text[:-6] + " " + text[-6:] if "apart" in style else text


STYLE = st.sets(st.sampled_from(["blank", "fraction", "colon", "apart"])).map(frozenset)


@settings(max_examples=EXAMPLES)
@given(moments=st.lists(st.tuples(st.datetimes(FIRST, LAST), OFFSET, STYLE), min_size=1, max_size=8))
def test_any_offset_counts(tmp_path: Path, moments):
    given = [
        (moment.replace(tzinfo=offset), style | {"colon"} if "apart" in style else style)
        for moment, offset, style in moments
    ]
    expected = [
        int((moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(seconds=1))
        for moment, _ in given
    ]
    assert seconds(tmp_path, [written(moment, style) for moment, style in given]) == expected


@settings(max_examples=EXAMPLES)
@given(
    moments=st.lists(
        st.tuples(st.datetimes(FIRST, datetime.datetime(2024, 1, 1)), st.sampled_from(ZONES)), min_size=1, max_size=8
    )
)
@example(
    moments=[
        (datetime.datetime(2017, 7, 14, 13, 40), "America/New_York"),
        (datetime.datetime(2017, 1, 14, 13, 40), "Europe/Berlin"),
    ]
)
def test_any_named_zone_counts(tmp_path: Path, moments):
    texts, expected = [], []
    for naive, name in moments:
        moment = naive.replace(microsecond=0, tzinfo=zoneinfo.ZoneInfo(name))
        utc = moment.astimezone(datetime.UTC)
        around = {(utc + datetime.timedelta(hours=hours)).astimezone(moment.tzinfo).utcoffset() for hours in (-30, 30)}
        if len(around) > 1 or moment.utcoffset().seconds % 60:  # clocks are set about then, or ran by the sun
            continue
        texts.append(f"{naive.replace(microsecond=0)} {name}")
        expected.append(int(moment.timestamp()))
    values = seconds(tmp_path, texts) if texts else []
    differ = [(text, one, two) for text, one, two in zip(texts, values, expected, strict=True) if one != two]
    # DuckDB and Python each bring a release of the zone database: later years, and a few corrections of earlier ones,
    # differ.
    assert len(differ) <= len(texts) // 8, differ


def test_offsets_zones_and_the_short_forms(tmp_path: Path):
    for text, expected in (
        ("2017-07-14T13:40:00+09:00", 1500007200),
        ("2017-07-14T13:40:00Z", 1500039600),
        ("2017-07-14 13:40 -0330", 1500052200),
        ("2017-07-14 13:40:00 +9", 1500007200),
        ("2017-07-14 13:40:00 UTC+9", 1500007200),
        ("2017-07-14 13:40:00 UTC", 1500039600),
        ("2017-07-14", 1499990400),
        ("2017-07-14+09:00", 1499958000),
        ("2017-07-14T15:40:00+02:00[Europe/Berlin]", 1500039600),
        ("2017-07-14T15:40:00[Europe/Berlin]", 1500039600),
        ("2017-07-14 15:40:00 Europe/Berlin", 1500039600),
    ):
        assert seconds(tmp_path, [text]) == [expected], text


def test_fractions_of_a_second_are_cut(tmp_path: Path):
    numbers = ["1505433721.999999999", "1505433721.5", "1505433721.", "1.5054337219e9"]
    texts = [*numbers, "2017-09-15 00:02:01.999999999", "2017-09-15T00:02:01,9Z"]
    assert seconds(tmp_path, texts) == [1505433721] * len(texts)
    assert seconds(tmp_path, ["1505433721999.9"], time_unit="ms") == [1505433721]
    assert load(tmp_path, ["-0.5", "7"]).rejected == {"negative timestamp": 1}


WORDS = ["Fri Sep 15 00:02:01 -0700 2017", "15 Sep 2017", "09/15/2017", "2017/09/15", "15.09.2017"]
NO_DATES = ["2017-13-01", "2017-07-14 EST", "2017-07-14 Foo/Bar"]


@pytest.mark.parametrize("text", WORDS + NO_DATES)
def test_a_date_that_is_not_read_is_shown_with_file_line_value_and_what_is_read(tmp_path: Path, text):
    loaded = load(tmp_path, ["1505433721", text])
    assert loaded.rejected == {"unparsable timestamp": 1}
    assert loaded.samples["unparsable timestamp"] == [f"{tmp_path / 'inter.csv'}: line 3: u1,a,{text}"]
    with pytest.raises(
        UserError,
        match=r"inter.csv: 1 bad lines.*first line 3: .*read are unix seconds and ISO 8601 such as 2017-07-14, ",
    ):
        load(tmp_path, ["1505433721", text], max_bad_lines=0)


@pytest.mark.parametrize(
    ("times", "unit", "reason"),
    [
        (["20140105", "20150231", "20181130"], "s", "timestamp that is a date written as a number"),
        (["2005", "2013", "2014"], "s", "timestamp that is a year"),
        (["200501", "201312", "201401"], "s", "timestamp that is a month written as a number"),
        (["1505433721", "1405433721", "1605433721"], "ms", "timestamp in seconds, not milliseconds"),
        (["1505433721000", "1405433721000"], "s", "timestamp after the year 2100"),
        (["20140105", "20150228"], "ms", "timestamp that is a date written as a number"),
        (["20140105235959", "20150228000000"], "s", "timestamp that is a date written as a number"),
        (["201401052359", "201502280000"], "s", "timestamp that is a date written as a number"),
        (["201401052359", "20150228000000"], "ms", "timestamp that is a date written as a number"),
    ],
)
def test_numbers_that_are_no_unix_seconds_are_asked_about(tmp_path: Path, times, unit, reason):
    given = {} if unit == "s" else {"time_unit": unit}
    assert load(tmp_path, times, **given).rejected == {f"{reason} (time_unit wrong?)": len(times)}
    # A few of them among real times, too.
    real = [str(1_400_000_000 * (1000 if unit == "ms" else 1) + n) for n in range(9)]
    loaded = load(tmp_path, [*real, *times], **given)
    assert loaded.rejected == {f"{reason} (time_unit wrong?)": len(times)} and len(loaded.interactions) == 9


@settings(max_examples=EXAMPLES)
@given(
    moments=st.lists(st.datetimes(datetime.datetime(1990, 1, 1), LAST), min_size=1, max_size=8),
    unit=st.sampled_from(["s", "ms"]),
)
def test_no_real_time_is_taken_for_a_date_written_as_a_number(tmp_path: Path, moments, unit):
    expected = [int(moment.replace(tzinfo=datetime.UTC).timestamp()) for moment in moments]
    given = {"time_unit": unit} if unit == "ms" else {}
    assert seconds(tmp_path, [str(second * (1000 if unit == "ms" else 1)) for second in expected], **given) == expected
    dates = [moment.strftime(style) for moment in moments for style in ("%Y%m%d", "%Y%m%d%H%M", "%Y%m%d%H%M%S")]
    assert load(tmp_path, dates, **given).rejected == {
        "timestamp that is a date written as a number (time_unit wrong?)": len(dates)
    }


def test_parquet_times_as_32_bit_floats_are_refused(tmp_path: Path):
    table = pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": pa.array([1505433721.0], pa.float32())})
    pq.write_table(table, tmp_path / "inter.parquet")
    with pytest.raises(
        UserError, match=r"inter.parquet: column 'timestamp' holds times as float, which cuts unix seconds to minutes"
    ):
        Loaded("table", tmp_path / "inter.parquet", write(tmp_path / "items.csv", ITEMS))


def test_times_that_a_spreadsheet_cut_are_refused_where_most_are_such(tmp_path: Path):
    loaded = load(tmp_path, ["1.51E+09", "1.5E+09", "1.50543E+09"])
    assert loaded.rejected == {"timestamp without its last digits": 3} and not loaded.interactions
    assert seconds(tmp_path, ["1505433721", "1.5e+09", "1.505433721000e+09"]) == [1505433721, 1500000000, 1505433721]


def test_small_numbers_that_only_order_the_rows_are_times(tmp_path: Path):
    assert seconds(tmp_path, ["0", "5", "1000", "3000"]) == [0, 5, 1000, 3000]


@pytest.mark.parametrize("zone", ["America/New_York", "UTC", "+09:00", None])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_times_with_a_zone_are_moments(tmp_path: Path, zone, unit, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    times = pa.array(
        [datetime.datetime(2017, 9, 15, 0, 2, 1, tzinfo=datetime.UTC if zone else None)], pa.timestamp(unit, zone)
    )
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": times}), tmp_path / "inter.parquet")
    loaded = Loaded("table", tmp_path / "inter.parquet", write(tmp_path / "items.csv", ITEMS))
    assert loaded.interactions == [("u", "a", 1505433721)]
