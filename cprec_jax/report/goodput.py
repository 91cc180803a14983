"""Where the time of runs went, over all their attempts: goodput, and badput by cause."""

from collections.abc import Mapping
from pathlib import Path

from cprec_jax.attempts import Attempt, Goodput, goodput, read_attempts
from cprec_jax.report.table import Cell, Column, Row, Section, Table
from cprec_jax.workdir import run_directories

CAUSES = {  # as `attempts.Goodput` has them -> as tables say them
    "start": "start",
    "restore": "restore",
    "compile": "compile",
    "again": "steps again",
    "save": "save",
    "data": "data wait",
    "validate": "validation",
    "between": "between",
    "unknown": "unknown",
}
INTRO = (
    "Goodput: the share of the time from the first attempt's begin to the last one's end that went into steps which "
    "count. The rest by "
    "cause: building the model, reading checkpoints, compiling, steps that an earlier attempt had done and lost, "
    "saving, waiting for rows "
    "(at most), ranking for validation users, "
    "the time between attempts with the start of the program, and what nobody could note before a death."
)


def read_ledgers(workdir: Path) -> dict[str, list[Attempt]]:
    """The attempts of every run that noted some, by its name."""
    ledgers = {run.name: read_attempts(run) for run in run_directories(workdir)}
    return {name: attempts for name, attempts in ledgers.items() if attempts}


def goodput_section(ledgers: Mapping[str, list[Attempt]]) -> Section:
    """A table of runs, and one of their attempts; none where no run noted any."""
    if not ledgers:
        return Section(title="Where the time went", intro=INTRO)
    names = ("Run", "Attempts", "Seconds", "Goodput", *CAUSES.values())
    rows = []
    for name, attempts in ledgers.items():
        of_run = goodput(attempts)
        texts = (
            name,
            str(of_run.attempts),
            f"{of_run.total:.0f}",
            _percent(of_run.share),
            *(_share(of_run, cause) for cause in CAUSES),
        )
        rows.append(_row(texts))
    runs = Table(title="Runs", columns=_columns(names), rows=tuple(rows))
    return Section(title="Where the time went", intro=INTRO, tables=(runs, _attempts_table(ledgers)), folded=True)


def _attempts_table(ledgers: Mapping[str, list[Attempt]]) -> Table:
    names = ("Run", "Attempt", "Processes", "Devices", "Seconds", "Last step", "Ended by")
    rows = []
    for name, attempts in ledgers.items():
        for attempt in attempts:
            last = "" if attempt.last_step is None else str(attempt.last_step)
            seconds = f"{attempt.end - attempt.begin:.0f}"
            counts = (str(attempt.number), str(attempt.processes), str(attempt.devices), seconds, last)
            rows.append(_row((name, *counts, attempt.why or "not known")))
    return Table(title="Attempts", columns=_columns(names), rows=tuple(rows))


def goodput_line(name: str, attempts: list[Attempt]) -> str:
    """Of one run, in one line: the causes that cost something, the largest first."""
    of_run = goodput(attempts)
    lost = sorted(
        (cause for cause in CAUSES if of_run.seconds[cause] >= 0.005 * of_run.total),
        key=lambda cause: -of_run.seconds[cause],
    )
    causes = ", ".join(f"{CAUSES[cause]} {_share(of_run, cause)}" for cause in lost)
    times = f"{of_run.attempts} attempt{'s' * (of_run.attempts > 1)}"
    return f"{name}: goodput {_percent(of_run.share)} of {of_run.total:.0f} s in {times}" + (
        f"; {causes}" if causes else ""
    )


def _share(of_run: Goodput, cause: str) -> str:
    return _percent(of_run.seconds[cause] / of_run.total if of_run.total else 0.0)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _columns(names: tuple[str, ...]) -> tuple[Column, ...]:
    return tuple(Column(name=name) for name in names)


def _row(texts: tuple[str, ...]) -> Row:
    return Row(cells=tuple(Cell(text=text) for text in texts), kind="method")
