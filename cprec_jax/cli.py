"""The front door, as `cprec` or `python launch.py`: parse, run one job, turn what happens into an exit code."""

import contextlib
import errno
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import cprec_jax.launcher.parent as workers
from cprec_jax.config.build import Written, nearest
from cprec_jax.config.help import describe
from cprec_jax.config.root import SECTIONS, Config, make_config, section_classes
from cprec_jax.errors import Diverged, FailedElsewhere, Preempted, UserError, is_agreed, one_line, shown
from cprec_jax.launcher.worker import FAILS, follow_parent, is_worker
from cprec_jax.parallel import processes
from cprec_jax.parallel.host_memory import keep_freed_memory
from cprec_jax.paths import local_path, work_directory
from cprec_jax.progress import say
from cprec_jax.workdir_lock import hold

HELP = """\
usage: python launch.py JOB --config=configs/FILE.py[:ARG] --workdir=DIR [--config.section.key=value ...]

jobs
  prepare    raw interactions -> WORKDIR/corpus
  pack       corpus + tokenizer + template -> WORKDIR/rows
  train      rows -> WORKDIR/runs/NAME: cpt, or the runs that config.runs names, one per seed; goes on where it stopped
  evaluate   checkpoints and baselines -> WORKDIR/results/NAME
  export     newest checkpoint -> WORKDIR/export/NAME, a Hugging Face directory
  generate   newest checkpoint (or --model=DIR) and a prompt, a history or a user -> text or ranked titles, printed here
  report     all results -> WORKDIR/report (Markdown, HTML, LaTeX, CSV, PNG, users.html) and a table here
  run        all of these; does only what is missing or out of date
  status     what is there, in which state and why, and what `run` would do; makes nothing
  compare    RESULTS ...: any results of one corpus in one table, with significance tests (without --config, --workdir)
  JOB --help prints this and every setting of that job with its default

examples
  python launch.py run --config=configs/quickstart.py --workdir=runs/quickstart
  python launch.py run --config=configs/ml1m.py --workdir=runs/ml1m --config.train.epochs=2
  python launch.py prepare --config=configs/ml1m.py --workdir=runs/ml1m --config.corpus.explain=true  (draws the corpus)
  python launch.py prepare --config=configs/corpora/movielens_1m.py --workdir=runs/ml --config.corpus.download=true
  python launch.py evaluate --config=configs/amazon7.py:small --workdir=runs/amazon7 --only=popularity
  python launch.py generate --workdir=runs/quickstart --set=Games --history="Silver Castle | Old Castle"
  python launch.py generate --model=runs/quickstart/export/cpt --prompt="Items one user chose"
  python launch.py compare runs/ml1m --method=cpt --out=comparison.md
  python launch.py compare runs/ml1m/results/cpt runs/ml1m/results/sasrec --metrics=hr@10,mrr --protocol=u100

options
  --only=NAME,NAME         evaluate: only these results; run: only these artefacts (named by status) and what they need
  --json                   status: as JSON
  --prompt=TEXT --history="TITLE | TITLE" --user=ID[,ID] --set=NAME --model=DIR
                           generate (no --config needed): @FILE: one per line; --history='["TITLE", "TITLE"]' where a
                           title holds a |; ID: of the source, or the number in ranks.parquet
  --method=NAME            compare: the result that is tested against all others (default: the first)
  --protocol=NAME --metrics=NAME,NAME --out=FILE.md|FILE.csv   compare: full; hr@10,ndcg@10,nll; also written to a file
  --slice=NAME             compare: only users of this slice, such as generalised, "overlap low" or "never seen"
  --processes=N            N processes on this machine (one GPU each, or the CPU), which this one starts and watches
  --distributed            several hosts: jax.distributed finds the others (Cloud TPU pods, Slurm, Open MPI)
  --coordinator=HOST:PORT --processes=N --process=I   process I of N (counted from 0) on several hosts, named by hand

exit codes: 0 done, 2 mistakes in config or input (one line each), 75 preempted with a checkpoint saved (run again),
1 anything else
"""

OF_JOB = {  # the sections that a job reads; `run` and `status` read all, `compare` none
    "prepare": ("corpus",),
    "pack": ("text", "pack"),
    "train": ("model", "train", "runs", "mesh"),
    "evaluate": ("evaluate",),
    "export": ("export",),
    "generate": ("generate",),
    "report": ("report",),
}
JOBS = ("prepare", "pack", "train", "evaluate", "export", "generate", "report", "run", "status")
ASKED = ("model", "prompt", "history", "user", "set")  # options of `generate`
COMPARE_OPTIONS = ("method", "protocol", "slice", "metrics", "out")
OPTIONS = ("config", "workdir", "only", "json", *ASKED, "distributed", "coordinator", "processes", "process")


# A full disk, a quota, a disk or directory that may not be written: the user's to mend, wherever in a job it shows.
REFUSED_BY_THE_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def command() -> int:
    """What `cprec` and `launch.py` do with the command line."""
    # XLA prints its start-up notes through this; its errors still come through.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return main(sys.argv[1:])


def as_called(text: str) -> str:
    """A text that names commands, with the name that this program was called by."""
    if Path(sys.argv[0]).stem != "cprec":
        return text
    return text.replace("python launch.py", "cprec").replace("launch.py", "cprec")


def main(argv: list[str]) -> int:
    """Parse, run one job, and turn what happens into an exit code."""
    for stream in (sys.stdout, sys.stderr):  # a Latin-1 terminal shows what it cannot write as escapes
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # which the except is for
    try:
        status = _main(argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `| head -1`: whoever read has had enough
        with contextlib.suppress(AttributeError, OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(as_called(HELP))
        return 0
    if argv[0] in (*JOBS, "compare") and {"-h", "--help"} & set(argv[1:]):
        print(as_called(HELP + settings(argv[0])))
        return 0
    try:
        if argv[0] == "compare":
            return _compare(argv[1:])
        job, options, overrides = parse(argv)
        if job == "generate":
            return _generate(options, overrides)
        config = make_config(load_config(options.get("config", ""), overrides))
        workdir = work_directory(options.get("workdir", "") or _missing("--workdir=DIR"))
        if job == "status":
            from cprec_jax.jobs.status import status

            status(config, workdir, "json" in options)
            return 0
        if workers.is_asked(options):
            return workers.run(argv, options, workdir)
        if job in ("train", "run"):
            keep_freed_memory()
        _start_jax(options)
        _run_job(job, config, workdir, options)
        return 0
    except UserError as error:
        for line in str(error).splitlines() or [""]:
            print(f"error: {as_called(one_line(line))}", file=sys.stderr)
        return _ended(2, error)
    except OSError as error:
        if error.errno not in REFUSED_BY_THE_SYSTEM:
            raise
        where = f"{one_line(error.filename)}: " if error.filename else ""
        print(f"error: {where}{os.strerror(error.errno)}; free some space or mend it, then run again", file=sys.stderr)
        return _ended(2, error)
    except Preempted as state:
        say(f"preempted: {state}")
        return 75
    except Diverged as error:
        print(f"diverged: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command to go on", file=sys.stderr)
        return _ended(1)
    except FailedElsewhere as error:
        say(f"ended, because process {error.process + 1} failed: {one_line(error)}")
        return 1
    except Exception as error:
        from cprec_jax.parallel import tpu_lock

        if held := tpu_lock.explained(error):
            print(f"error: {held}", file=sys.stderr)
            return _ended(2)
        if processes.count() == 1:
            raise
        print(f"{FAILS}\n{traceback.format_exc()}", file=sys.stderr, end="")
        return _ended(1, error)


def _ended(code: int, error: BaseException | None = None) -> int:
    """The exit code, unless this is one of several processes and fails alone: in good order it
    would wait for the others, which wait for it."""
    if processes.count() > 1 and not (error is not None and is_agreed(error)):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def parse(argv: list[str]) -> tuple[str, dict[str, str], dict[str, str]]:
    """Split the command line into the job, its options, and the overrides of config keys."""
    job = argv[0]
    if job not in JOBS:
        raise UserError(f"{job!r} is not a job{nearest(job, (*JOBS, 'compare'))}")
    options: dict[str, str] = {}
    overrides: dict[str, str] = {}
    for argument in argv[1:]:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            raise UserError(f"{argument!r}: expected --option=value")
        if name.startswith("config."):
            if not equals:
                raise UserError(f"{argument}: expected --{name}=VALUE")
            overrides[name.removeprefix("config.")] = value
        elif name in OPTIONS:
            if not equals and name not in ("distributed", "json"):
                raise UserError(f"{argument}: expected --{name}=VALUE")
            options[name] = value
        else:
            raise UserError(f"--{name}: unknown option{nearest(name, [*OPTIONS, 'config.section.key'])}")
    of_jobs = {**dict.fromkeys(ASKED, ("generate",)), "only": ("evaluate", "run"), "json": ("status",)}
    for name in options:
        if job not in of_jobs.get(name, JOBS):
            raise UserError(f"--{name}: belongs to the job {' or '.join(of_jobs[name])}; {job} would ignore it")
    return job, options, overrides


def _compare(arguments: list[str]) -> int:
    """`compare RESULTS ... [--option=value]`: paths and options in any order."""
    from cprec_jax.report import compare

    options: dict[str, str] = {}
    paths: list[Path] = []
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            paths.append(local_path(argument, "compare"))
        elif name not in COMPARE_OPTIONS:
            raise UserError(f"--{name}: unknown option of compare{nearest(name, COMPARE_OPTIONS)}")
        elif not equals or not value:
            raise UserError(f"{argument}: expected --{name}=VALUE")
        else:
            options[name] = value
    if not paths:
        raise UserError(
            "compare: name the results, such as `launch.py compare runs/ml1m/results/cpt runs/ml1m/results/popularity`"
        )
    chosen: dict[str, Any] = {key: options[key] for key in ("method", "protocol") if key in options}
    if "slice" in options:
        chosen["slice_name"] = options["slice"]
    if "metrics" in options:
        chosen["metrics"] = tuple(options["metrics"].split(","))
    if "out" in options:
        chosen["out"] = local_path(options["out"], "--out")
    print(compare.run(compare.Request(paths=tuple(paths), **chosen)), end="", flush=True)
    return 0


def _missing(option: str) -> str:
    raise UserError(f"{option} is missing; `python launch.py` alone prints examples")


def load_config(location: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    """Execute `get_config(ARG)` of a config file and apply overrides. Returns plain nested dicts."""
    if not location:
        _missing("--config=FILE.py[:ARG]")
    file, argument = _file_and_argument(location)
    path = local_path(file, "--config")
    if not path.is_file():
        known = sorted(str(p) for p in Path(path.parent if path.parent.is_dir() else "configs").glob("*.py"))
        raise UserError(f"--config={shown(file)}: no such file{nearest(file, known) if known else ''}")
    spec = importlib.util.spec_from_file_location(
        "cprec_config", path, loader=SourceFileLoader("cprec_config", str(path))
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    location = shown(location)
    try:
        with _siblings_of(path):
            spec.loader.exec_module(module)
        loaded = module.get_config(argument) if argument else module.get_config()
        config = loaded.to_dict() if hasattr(loaded, "to_dict") else loaded
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"--config={location}: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise UserError(
            f"--config={location}: get_config() gives {one_line(repr(config))[:80]}; it must give a ConfigDict of "
            "sections"
        )
    return _overridden(config, overrides)


@contextlib.contextmanager
def _siblings_of(path: Path) -> Iterator[None]:
    """A config file may import files beside it, as a script may."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _file_and_argument(location: str) -> tuple[str, str]:
    """FILE and ARG of `FILE[:ARG]`; a file's name may hold colons itself."""
    colons = [index for index, character in enumerate(location) if character == ":"]
    for index in (len(location), *reversed(colons)):
        if local_path(location[:index], "--config").is_file():
            return location[:index], location[index + 1 :]
    file, _, argument = location.partition("://" if "://" in location else ":")
    return (location, "") if "://" in location else (file, argument)


def _overridden(config: dict[str, Any], overrides: Mapping[str, str]) -> dict[str, Any]:
    for key, text in overrides.items():
        _override(config, key, text)
    return config


def _override(config: dict[str, Any], key: str, text: str) -> None:
    """Set one key to a `Written` value, which `make_config` reads by the type of its field. Sections in a list go by
    their names."""
    *parents, leaf = key.split(".")
    if (parents or [leaf])[0] not in SECTIONS:
        raise UserError(f"--config.{key}: unknown section{nearest((parents or [leaf])[0], SECTIONS)}")
    _check_named(config, key)
    node: Any = config
    for depth, parent in enumerate(parents):
        where = f"--config.{key}: config.{'.'.join(parents[: depth + 1])}"
        if isinstance(node, list | tuple):
            named = {entry.get("name"): entry for entry in node if isinstance(entry, dict)}
            if parent not in named:
                raise UserError(f"{where}: no such entry{nearest(parent, map(str, named))}")
            child = named[parent]
        else:
            child = node.get(parent)
            if child is None:  # a section that was left out, or is None
                child = node[parent] = {}
        if not isinstance(child, dict | list | tuple):
            raise UserError(f"{where} is a value, not a section")
        node = child
    if isinstance(node, list | tuple):
        raise UserError(f"--config.{key}: is an entry of a list; set one of its keys")
    if isinstance(node.get(leaf), dict) and not text.strip().startswith("{") and text.lower() != "none":
        raise UserError(f"--config.{key}: is a section; set one of its keys{nearest('', node[leaf])}")
    node[leaf] = Written(text)


def _check_named(config: Mapping[str, Any], key: str) -> None:
    """Of runs and rows an override changes one that the config names; it adds none."""
    for path in (("runs",), ("evaluate", "names")):
        parts = tuple(key.split("."))
        if parts[: len(path)] != path or len(parts) == len(path):
            continue
        node: Any = config
        for part in path:
            node = (node or {}).get(part)
        known = list(node or ({"cpt"} if path == ("runs",) else ()))
        if parts[len(path)] not in known:
            hint = nearest(parts[len(path)], known) if known else "; it names none, so write them in the config file"
            raise UserError(f"--config.{key}: the config names no {'.'.join(path)}.{parts[len(path)]}{hint}")


def _start_jax(options: Mapping[str, str]) -> None:
    from absl import flags, logging

    if is_worker():
        follow_parent()
    flags.FLAGS(["launch.py"])  # grain's worker processes need parsed flags
    logging.set_verbosity(logging.ERROR)  # orbax warns about every option it derives
    if "distributed" in options or "coordinator" in options:
        from cprec_jax.parallel import distributed

        distributed.start(options.get("coordinator"), options.get("processes"), options.get("process"))


def settings(job: str) -> str:
    """The keys of the sections that a job reads."""
    classes = section_classes()
    sections = list(classes) if job in ("run", "status") else OF_JOB.get(job, ())
    where = {name: "config.runs.NAME" if name == "runs" else f"config.{name}" for name in sections}
    descriptions = [
        describe(classes[name], where[name], ("train", "model") if name == "runs" else ()) for name in sections
    ]
    return (
        "\n" + "\n".join([f"settings of {job}, to be written in the config file or given here", "", *descriptions])
        if descriptions
        else ""
    )


def _generate(options: Mapping[str, str], overrides: Mapping[str, str]) -> int:
    """`generate` needs no config (a run describes itself), and with --model no work directory either."""
    raw = load_config(options["config"], overrides) if "config" in options else _overridden({}, overrides)
    config = make_config(raw)
    workdir = local_path(options["workdir"], "--workdir") if options.get("workdir") else None
    _start_jax(options)
    from cprec_jax.jobs.making.generate import Request, generate

    generate(config, workdir, Request(**{name: options[name] for name in ASKED if name in options}))
    return 0


def _run_job(job: str, config: Config, workdir: Path, options: Mapping[str, str]) -> None:
    """Run a job while this process, or the first of its group, holds the work directory."""
    from cprec_jax.jobs.alone import run_alone
    from cprec_jax.jobs.run import run

    only = options["only"].split(",") if "only" in options else None
    with contextlib.ExitStack() as held:
        processes.by_first(lambda: held.enter_context(hold(workdir)))
        if processes.count() > 1:
            from cprec_jax.parallel.guards import check_together

            check_together(config, workdir)
        if job == "run":
            run(config, workdir, only)
        else:
            run_alone(job, config, workdir, only)
