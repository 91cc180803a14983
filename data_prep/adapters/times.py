"""Times as files write them -> unix seconds, as SQL of DuckDB; and numbers that are a time in no unit.

Read are whole numbers, numbers with a fraction (which is cut off), and ISO 8601: `2017-07-14`, `2017-07-14 13:40`,
`2017-07-14T13:40:00.5`, each with `Z`, `UTC`, an offset (`+09:00`, `-0330`, `+09`, `UTC+9`) or a zone of the IANA
database (` Europe/Berlin`, `+02:00[Europe/Berlin]`, where the offset counts) or without, which means UTC. Shorter names
of zones are not read: EST and IST are several zones each.
"""

from data_prep.engine import quoted

LATEST_SECONDS = 4_102_444_800  # the year 2100: later means another unit
EARLY = 315_532_800  # 1980, before which nobody logged interactions
REAL = 631_152_000  # 1990
WRONG_UNIT = "(time_unit wrong?)"
DATE_AS_NUMBER = f"timestamp that is a date written as a number {WRONG_UNIT}"
AFTER_2100 = f"timestamp after the year 2100 {WRONG_UNIT}"
NEARLY_ALL, MOST = 0.9, 0.5
CUT_NUMBER = r"\s*\d([.,]\d{0,6})?[eE]\+?\d+\s*"  # fewer digits than unix seconds have

_OFFSET = r"(?:UTC|GMT)?[+-](?:2[0-3]|[01]?\d)(?::?[0-5]\d)?"
_AREA = r"[A-Za-z_]+/[A-Za-z0-9_+/-]+"
_ISO = (
    r"^\s*(\d{4}-\d{1,2}-\d{1,2})(?:(?:[Tt]|\s+)(\d{1,2}:\d{2}(?::\d{2})?)(?:[.,]\d+)?)?"
    rf"\s*([Zz]|[Uu][Tt][Cc]|[Gg][Mm][Tt]|{_OFFSET}|{_AREA})?(?:\[({_AREA})\])?\s*$"
)


def number(text: str) -> str:
    """SQL: the whole number in the column `text`, what follows the point cut off; NULL where it is no number."""
    plain = f"TRY_CAST({text} AS BIGINT)"
    truncated = rf"TRY_CAST(nullif(regexp_extract({text}, '^\s*\+?(\d+)(?:\.\d*)?\s*$', 1), '') AS BIGINT)"
    given = rf"regexp_full_match({text}, '\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*')"
    scientific = f"CASE WHEN {given} THEN TRY_CAST(floor(TRY_CAST({text} AS DOUBLE)) AS BIGINT) END"
    # Nearly all rows are plain numbers: the first look settles them. DuckDB would round 1.9, and take 1_000 and 0x10
    # for numbers.
    return f"coalesce(CASE WHEN CAST({plain} AS VARCHAR) = {text} THEN {plain} END, {truncated}, {scientific})"


def iso_seconds(text: str) -> str:
    """SQL: the unix seconds of the ISO 8601 text in the column `text`; NULL where it is none."""
    date, clock, zone, area = (f"nullif(regexp_extract({text}, {quoted(_ISO)}, {n}), '')" for n in (1, 2, 3, 4))
    # "UTC+9" -> "+09"; DuckDB wants a blank before the name of a zone and none before an offset.
    offset = rf"regexp_replace(regexp_replace({zone}, '^(UTC|GMT)', ''), '^([+-])(\d)(:|$)', '\1' || '0' || '\2\3')"
    ending = (
        f"CASE WHEN {zone} IS NULL AND {area} IS NULL OR upper({zone}) IN ('Z', 'UTC', 'GMT') THEN '+00' "
        f"WHEN {zone} IS NULL OR contains({zone}, '/') THEN ' ' || coalesce({zone}, {area}) ELSE {offset} END"
    )
    # Without a match there is no date, and so nothing.
    return (
        f"TRY_CAST(floor(epoch(TRY_CAST({date} || ' ' || coalesce({clock}, '00:00') || {ending} AS TIMESTAMPTZ))) AS "
        "BIGINT)"
    )


def is_date_and_clock(value: str) -> str:
    """SQL: the number is 201401052359 or 20140105235959, a time of 1990 to 2100 in no unit."""
    kinds = []
    for first, last, minute in ((190001010000, 210012312359, 1), (19000101000000, 21001231235959, 100)):
        parts = ((10_000 * minute, 1, 31), (1_000_000 * minute, 1, 12), (100 * minute, 0, 23), (minute, 0, 59))
        fields = " AND ".join(f"({value} // {unit}) % 100 BETWEEN {low} AND {high}" for unit, low, high in parts)
        kinds.append(f"({value} BETWEEN {first} AND {last} AND {fields})")
    return f"({' OR '.join(kinds)})"


def no_unit(time_unit: str) -> dict[str, str]:
    """What a number is that is a time in no unit -> SQL over the column `value`: the number as the file has it."""
    conditions = {
        DATE_AS_NUMBER: (
            "value BETWEEN 19000101 AND 21001231 AND (value // 100) % 100 BETWEEN 1 AND 12 AND value % 100 BETWEEN 1 "
            "AND 31"
        ),
        f"timestamp that is a year {WRONG_UNIT}": "value BETWEEN 1900 AND 2100",
        f"timestamp that is a month written as a number {WRONG_UNIT}": "value BETWEEN 190001 AND 210012 AND value % "
        "100 BETWEEN 1 AND 12",
    }
    if time_unit == "ms":
        conditions[f"timestamp in seconds, not milliseconds {WRONG_UNIT}"] = (
            f"value BETWEEN 100000000 AND {LATEST_SECONDS}"
        )
    return conditions
