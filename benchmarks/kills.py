"""Random kills of a short training run: it goes on by the same command each time, and ends with the bits of a run that
nothing happened to.

    python benchmarks/kills.py [--quick] [--kills N] [--json FILE] [--work DIR]

The run: a tiny model with dropout, 60 steps, a checkpoint every 5. Each kill is SIGKILL at a random moment between the
start of the program and its end; every third waits from there for a checkpoint that is being written. Of four kills
three are of runs of one process; one is of a run of a parent with two workers, of which one of the three is killed, or
all. A run is killed and started again until an attempt comes to its end first, or eight were killed and the ninth is
left alone. Then its parameters and its metrics are compared with those of a run of the same number of processes that
was left alone.

--work DIR keeps everything; the same command with the same DIR goes on from its state.json. --quick tries 5 kills, the
default is 200 (one and a half hours on two cores).

Names: kills_survived (kills of runs that ended with the same bits) and kills_tried.
"""

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure

ROOT = Path(__file__).resolve().parents[1]
QUICK, FULL = 5, 200
KILLS_PER_RUN = 8  # then it is left alone: on a busy machine an attempt that may be killed seldom comes to its end
PATIENCE_S = 900.0  # for one attempt, on however busy a machine
TARGETS = ("parent", "worker 1", "worker 2", "all")  # of two processes

CONFIG: dict[str, Any] = {
    "corpus": {
        "sources": [
            {"name": "Books", "role": "pretrain", "adapter": "synthetic", "platform": "synthetic"},
            {"name": "Games", "role": "downstream", "adapter": "synthetic", "platform": "synthetic"},
        ],
        "synthetic": {"users": 300, "items": 60, "interactions": 20.0, "tastes": 8},
        "k_core": 0,
    },
    "text": {"tokenizer": "train", "vocab_size": 400},
    "pack": {"row_length": 64},
    "model": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 1,
        "dropout": 0.1,
    },
    "train": {
        "global_batch": 8,
        "steps": 60,
        "log_every": 1,
        "checkpoint_every": 5,
        "loss_chunk": 16,
        "milestones": [],
    },
}


@dataclass
class State:
    """seconds: of the latest whole run left alone, by number of processes. pending: kills of the run on its way.
    other_deaths: of workers that nobody killed."""

    seed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    kills: list[dict[str, Any]] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)
    other_deaths: int = 0
    run: int = 0

    @property
    def tried(self) -> int:
        return len(self.kills) + len(self.pending)

    @property
    def processes(self) -> int:
        """Of the run that is on its way: two while fewer than a quarter of the kills were of such a run."""
        return 2 if 4 * sum(kill["processes"] == 2 for kill in self.kills) < len(self.kills) else 1


class Runs:
    """The work directories below `work`, and the command on them."""

    def __init__(self, work: Path):
        self.work, self.config = work, work / "config.py"
        self._file = work / "state.json"
        self.state = State(**json.loads(self._file.read_text(encoding="utf-8"))) if self._file.exists() else State()
        if not self.config.exists():
            self.config.write_text(f"def get_config():\n    return {CONFIG!r}\n", encoding="utf-8")

    def keep(self) -> None:
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self.state), indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self._file)

    def start(self, workdir: Path, processes: int, job: str = "train") -> subprocess.Popen[str]:
        several = [f"--processes={processes}"] if processes > 1 else []
        command = [
            sys.executable,
            str(ROOT / "launch.py"),
            job,
            f"--config={self.config}",
            f"--workdir={workdir}",
            *several,
        ]
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(self.work / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        environment = {**os.environ, **cache, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
        with open(self.work / "last.log", "w", encoding="utf-8") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True)

    def unbroken(self, workdir: Path, processes: int, job: str = "train") -> float:
        """Run to the end; gives the seconds."""
        began = time.monotonic()
        if self.start(workdir, processes, job).wait(PATIENCE_S):
            raise RuntimeError((self.work / "last.log").read_text(encoding="utf-8")[-4000:])
        return time.monotonic() - began

    def reference(self, processes: int) -> Path:
        """A run that was left alone; made when it is not there."""
        workdir = self.work / f"alone-{processes}"
        if str(processes) not in self.state.seconds:
            shutil.rmtree(workdir, ignore_errors=True)
            for job in ("prepare", "pack"):
                self.unbroken(workdir, 1, job)
            self.unbroken(workdir, processes)  # fills the cache of compiled programs
            shutil.rmtree(workdir / "runs")
            self.state.seconds[str(processes)] = self.unbroken(workdir, processes)
            self.keep()
        return workdir

    def begin(self) -> Path:
        """The work directory of the run that is on its way."""
        workdir = self.work / f"run-{self.state.run}"
        if not workdir.exists():
            alone = self.reference(self.state.processes)
            temporary = workdir.with_suffix(".tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            for part in ("corpus", "rows"):
                shutil.copytree(alone / part, temporary / part)
            temporary.rename(workdir)
        return workdir


def outcome(workdir: Path) -> tuple[str, list[tuple[int, float, int]]]:
    """The hash of the parameters, and the curve of losses."""
    run = workdir / "runs" / "cpt"
    records = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    parameters = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["params_sha256"]
    return parameters, [(record["step"], record["loss"], record["tokens"]) for record in records]


def one_attempt(runs: Runs, dice: random.Random) -> bool:
    """Start the command and kill it at a random moment. Whether it came to its end before."""
    state, workdir = runs.state, runs.begin()
    processes = state.processes
    at_save = state.tried % 3 == 2
    moment = dice.uniform(0.0, runs.state.seconds[str(processes)])
    if len(state.pending) >= KILLS_PER_RUN:
        moment = math.inf
    target = dice.choice(TARGETS) if processes > 1 else "all"
    began, command = time.monotonic(), runs.start(workdir, processes)
    try:
        if not _wait(command, workdir, moment, at_save):
            if command.returncode == 75 or " died by signal " in _last_line(runs.work / "last.log"):
                state.other_deaths += 1  # a worker, without our doing; the same command goes on
                runs.keep()
                print(f"  run {state.run}: {_last_line(runs.work / 'last.log')}", flush=True)
                return False
            if command.returncode:
                raise RuntimeError((runs.work / "last.log").read_text(encoding="utf-8")[-4000:])
            if not state.pending:  # a whole run: the machine may be less busy than it was
                state.seconds[str(processes)] = time.monotonic() - began
            return True
        killed = _kill(command, target, processes)
        state.pending.append(
            {"processes": processes, "target": target, "at_save": at_save, "seconds": round(moment, 2)}
        )
        runs.keep()
        code = command.wait(PATIENCE_S)
        _until_gone(killed)
        print(
            f"  kill {state.tried}: run {state.run}, {target} of {processes}, after {moment:.1f} s, exit code {code}",
            flush=True,
        )
        return code == 0
    finally:
        command.kill()


def _last_line(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]


def _wait(command: subprocess.Popen[str], workdir: Path, moment: float, at_save: bool) -> bool:
    """Until the moment, and from there for a save if that is asked. False: the command ended before."""
    began = time.monotonic()
    while command.poll() is None:
        saving = any((workdir / "runs" / "cpt" / "checkpoints").glob("*tmp*"))
        if time.monotonic() - began >= moment and (saving or not at_save):
            return True
        if time.monotonic() - began > PATIENCE_S:
            raise RuntimeError(f"{workdir}: no end after {PATIENCE_S:.0f} s")
        time.sleep(0.001)
    return False


def _kill(command: subprocess.Popen[str], target: str, processes: int) -> list[int]:
    """SIGKILL to the target. Gives all processes of the command."""
    children = _children(command.pid) if processes > 1 else []
    everyone = [command.pid, *children]
    named = {"parent": [command.pid], "all": everyone, **{f"worker {i + 1}": [pid] for i, pid in enumerate(children)}}
    for pid in named.get(target, everyone):  # workers that are not started yet: all
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return everyone


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def _until_gone(pids: list[int]) -> None:
    """Nothing outlives a command that was killed."""
    deadline = time.monotonic() + PATIENCE_S
    while left := [pid for pid in pids if _lives(pid)]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {left} are still there")
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        return False


def end_run(runs: Runs) -> None:
    """Compare the run that came to its end, and count its kills."""
    state = runs.state
    workdir = runs.begin()
    same = outcome(workdir) == outcome(runs.reference(state.processes))
    print(
        f"  run {state.run} of {state.processes}: {len(state.pending)} kills, "
        f"{'the same bits' if same else 'OTHER BITS'}",
        flush=True,
    )
    state.kills += [{**kill, "run": state.run, "survived": same} for kill in state.pending]
    state.pending, state.run = [], state.run + 1
    runs.keep()
    if same:
        shutil.rmtree(workdir)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} kills")
    parser.add_argument("--kills", type=int, help=f"how many (default {FULL})")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--work", type=Path, help="folder for runs and state, which is kept (default: a temporary one)")
    options = parser.parse_args(arguments)
    wanted = options.kills or (QUICK if options.quick else FULL)
    print(measure.machine(), flush=True)
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        runs = Runs(work.resolve())
        while runs.state.tried < wanted:
            dice = random.Random(f"{runs.state.seed} {runs.state.run} {runs.state.tried}")
            runs.reference(runs.state.processes)
            if one_attempt(runs, dice):
                end_run(runs)
        if runs.state.pending:  # the last kills count when their run has come to its end
            runs.unbroken(runs.begin(), runs.state.processes)
            end_run(runs)
        kills = runs.state.kills
    results = measure.Results()
    if runs.state.other_deaths:
        print(
            f"  {runs.state.other_deaths} attempts of two processes ended by themselves, and were gone on with",
            flush=True,
        )
    two = sum(kill["processes"] == 2 for kill in kills)
    detail = (
        f"SIGKILL; {two} of them with a parent and two workers, {sum(kill['at_save'] for kill in kills)} during saves"
    )
    results.add("kills_survived", sum(kill["survived"] for kill in kills), "kills", "nothing", detail)
    results.add("kills_tried", len(kills), "kills", "nothing", detail)
    results.write(options.json)


if __name__ == "__main__":
    main()
