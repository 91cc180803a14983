"""Checkpoints (with `read_back` the only importer of orbax): trained leaves, optimizer state and meta as separate
items.

Frozen leaves are saved once. Damaged checkpoints are set aside.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from cprec_jax.errors import DamagedCheckpoint, UserError, agreed, one_line
from cprec_jax.parallel import processes
from cprec_jax.progress import say
from cprec_jax.train.fingerprint import parameters_sha256
from cprec_jax.train.leaves import Leaves, by_name, merge, split
from cprec_jax.train.read_back import differing_leaf, in_any_process, read_item, read_json_item, without_echoes
from cprec_jax.train.state import TrainState, abstract

T = TypeVar("T")

BASE = (
    "base_sha256"  # in the meta of an adapter's checkpoints: of the leaves beside them, without which they say nothing
)
FROZEN = "frozen"  # beside the steps: the leaves that no step changes, saved once
DAMAGED = ".damaged"  # behind the step of a checkpoint that was set aside
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of what orbax has not renamed yet
ELSEWHERE = "another process cannot read its part"


class Checkpoints:
    """The checkpoints of one run: DIRECTORY/STEP/{params,opt_state,meta}, and DIRECTORY/frozen where leaves are frozen.

    `params` are the trained leaves; `restore_params` puts both together.

    The newest `keep` and those at `milestones` stay. Saves are written under a temporary name and renamed by orbax; on
    accelerators they run in the background, on the CPU (where the arrays to be saved would be donated to the next step)
    at once.
    """

    def __init__(self, directory: Path, keep: int = 2, milestones: Sequence[int] = (), read_only: bool = False):
        if read_only and not directory.is_dir():
            raise UserError(f"{directory}: no checkpoints; run `launch.py train` with the same --workdir first")
        kept = policies.AnyPreservationPolicy([policies.LatestN(keep), policies.CustomSteps(list(milestones))])
        if not read_only:
            processes.by_first(lambda: _make_clean(directory))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else kept,
            read_only=read_only,
            create=False,
            cleanup_tmp_directories=False,
            enable_async_checkpointing=jax.default_backend() != "cpu",
            multiprocessing_options=_who_calls(),
        )
        self.directory = directory
        self.saved: set[int] = set()  # steps that this object wrote
        # Handlers are named up front: an unnamed item has no metadata to compare with until it has been restored once.
        handlers = {
            "params": ocp.StandardCheckpointHandler(multiprocessing_options=_who_calls()),
            "opt_state": ocp.StandardCheckpointHandler(multiprocessing_options=_who_calls()),
            "meta": ocp.JsonCheckpointHandler(multiprocessing_options=_who_calls()),
        }
        self._manager = ocp.CheckpointManager(directory.resolve(), options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """The steps of all whole checkpoints, ascending."""
        return sorted(self._manager.all_steps(read=True))

    def save(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = {
            "params": ocp.args.StandardSave(state.trained),
            "opt_state": ocp.args.StandardSave(state.opt_state),
            "meta": ocp.args.JsonSave(dict(meta)),
        }
        with self._saving(step):
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        self.saved.add(step)

    def wait(self) -> None:
        """Wait for saves in the background, and raise what went wrong in them."""
        with self._saving(None):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    @contextlib.contextmanager
    def _saving(self, step: int | None) -> Iterator[None]:
        """A full disk, one that became read-only, ...: one line, where orbax logs a traceback per thread and per
        array."""
        from absl import logging as absl_logging

        before = absl_logging.get_verbosity()
        absl_logging.set_verbosity(absl_logging.FATAL)
        try:
            with without_echoes():
                yield
        except Exception as error:  # orbax and tensorstore raise many kinds for what the system refuses
            what = "a checkpoint" if step is None else f"step {step}"
            raise UserError(
                f"{self.directory}: cannot save {what} ({_system_reason(error)}); free some space or mend the "
                "directory, then run again "
                "to go on"
            ) from error
        finally:
            absl_logging.set_verbosity(before)

    def verify(self, state: TrainState) -> None:
        """Read the checkpoint of `state` back and compare every bit. One that differs from what was just saved is a
        `UserError`."""
        step = int(state.step)
        self.wait()
        try:
            with without_echoes():
                wrong = [
                    f"{item}{leaf}"
                    for item, tree in (("params", state.trained), ("opt_state", state.opt_state))
                    if (leaf := differing_leaf(self._item(step, item), tree)) is not None
                ]
                self.meta(step)
        except Exception as error:
            wrong = [_system_reason(error)]
        if in_any_process(bool(wrong)):
            wrong = wrong or [ELSEWHERE]
            raise agreed(
                UserError(
                    f"{self.directory / str(step)}: was saved, but cannot be read back as it was ({wrong[0]}); check "
                    "the disk, then run again"
                )
            )

    def keep_frozen(self, frozen: Leaves) -> Leaves:
        """Save the leaves that no step changes, once; later, give back those that were saved, which the other leaves
        were trained with.

        Saved ones that cannot be read are set aside, and made again from `frozen`, what the run starts from.
        """
        if not frozen:
            return frozen
        path = self.directory.resolve() / FROZEN
        if path.exists():
            saved = self._tried(lambda: self._restore_frozen(abstract(frozen)))
            if not isinstance(saved, str):
                return saved
            say(
                f"warning: {self.directory / FROZEN} is damaged ({saved}); it is made again from what the run starts "
                "from"
            )
            self._rename(FROZEN)
        checkpointer = ocp.StandardCheckpointer(multiprocessing_options=_who_calls())
        with self._saving(None):
            checkpointer.save(path, frozen)
            checkpointer.wait_until_finished()
        checkpointer.close()
        leaf = differing_leaf(path, frozen)
        if in_any_process(leaf is not None):
            raise agreed(
                UserError(
                    f"{self.directory / FROZEN}: was saved, but cannot be read back as it was ({leaf or ELSEWHERE}); "
                    "check the disk, then run again"
                )
            )
        return frozen

    def _restore_frozen(self, wanted: Leaves) -> Leaves:
        path = self.directory.resolve() / FROZEN
        checkpointer = ocp.StandardCheckpointer(multiprocessing_options=_who_calls())
        self._compare(FROZEN, checkpointer.metadata(path).item_metadata.tree, wanted)
        checkpointer.close()
        return read_item(path, wanted)

    def _tried(self, read: Callable[[], T]) -> T | str:
        """What `read` gives in this process; in what way it failed, where it failed in any. All processes must call."""
        try:
            with without_echoes():
                value: T | str = read()
        except UserError:  # of another model: all processes compare the same facts
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
            value = _reason(error)
        if in_any_process(isinstance(value, str)):
            return value if isinstance(value, str) else ELSEWHERE
        return value

    def set_aside(self, step: int) -> None:
        """Rename a checkpoint, so that its step is made again; nothing is deleted. All processes must call."""
        target = self._rename(str(step))
        self._manager.reload()
        say(
            f"warning: checkpoint {self.directory / str(step)} is damaged; it was renamed to {target}, and its step "
            "is made again"
        )

    def _rename(self, name: str) -> str:
        source = self.directory / name
        target = next(path for n in range(1000) if not (path := source.with_name(f"{name}{DAMAGED}{n or ''}")).exists())
        in_any_process(False)  # all have looked
        if jax.process_index() == 0:
            os.replace(source, target)
        in_any_process(False)  # none reads it any more
        return target.name

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def meta(self, step: int) -> dict[str, Any]:
        return read_json_item(self._item(step, "meta"))

    def _item(self, step: int, item: str) -> Path:
        return self.directory.resolve() / str(step) / item

    def restore_newest(
        self, abstract: TrainState, at_most: int | None = None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint (of a step `at_most`) that can be read whole, sharded like `abstract`, and its meta;
        None: there is none.

        Damaged ones after it are set aside. Raises `UserError` for one of another model (paths, shapes, dtypes), and
        where checkpoints exist and none can be read: training anew would not be what was asked for.
        """
        steps = [step for step in self.steps() if at_most is None or step <= at_most]
        damaged: dict[int, str] = {}
        for step in reversed(steps):
            restored = self._restore(step, abstract)
            if isinstance(restored, str):
                damaged[step] = restored
                say(
                    f"warning: checkpoint {self.directory / str(step)} is damaged ({restored}); trying the one "
                    "before it"
                )
                continue
            for damaged_step in damaged:
                self.set_aside(damaged_step)
            return restored
        aside = [path.name for path in self.directory.glob(f"*{DAMAGED}*")]
        if damaged or (aside and not steps and at_most is None):
            unreadable = UserError(
                f"{self.directory}: none of its checkpoints can be read "
                f"({', '.join(sorted([*map(str, damaged), *aside]))}); restore one from a copy, or delete the run's "
                "directory to train anew"
            )
            raise (agreed(unreadable) if damaged else unreadable)  # what lies aside each saw alone
        return None

    def restore_step(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The whole state of one step, sharded like `abstract`, and its meta. Absent or damaged:
        `DamagedCheckpoint`."""
        restored = self._restore(step, abstract) if step in self.steps() else "it is missing"
        if isinstance(restored, str):
            raise DamagedCheckpoint(
                f"{self.directory / str(step)}: cannot be read ({restored}); `launch.py train` makes it again"
            )
        return restored

    def set_aside_damaged(self, abstract: TrainState) -> None:
        """Read every checkpoint, and set aside those that cannot be read; one whole one must be left."""
        for step in self.steps()[:-1]:
            if isinstance(self._restore(step, abstract), str):
                self.set_aside(step)

    def _restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | str:
        """A checkpoint's state and meta; in what way it is damaged, if it is."""

        def read() -> tuple[Any, Any, dict[str, Any]]:
            self._check(step, "params", abstract.trained)
            self._check(step, "opt_state", abstract.opt_state)
            meta = self.meta(step)
            meta["tokens"], meta["seconds"]
            items = {"params": abstract.trained, "opt_state": abstract.opt_state}
            trained, opt_state = (read_item(self._item(step, item), tree) for item, tree in items.items())
            return trained, opt_state, meta

        restored = self._tried(read)
        if isinstance(restored, str):
            return restored
        trained, opt_state, meta = restored
        placed = jax.device_put(step, abstract.step.sharding)
        return TrainState(step=placed.astype(abstract.step.dtype), trained=trained, opt_state=opt_state), meta

    def restore_params(self, abstract_params: Any, step: int | None = None) -> tuple[Any, int, dict[str, Any]]:
        """Parameters alone (for evaluation and export) of `step`, or of the newest, that step, and its meta.

        Raises `UserError` when it is absent or does not fit, `DamagedCheckpoint` when it cannot be read: no table shows
        another step than it says.
        """
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise UserError(f"{self.directory}: {wanted}; there are {steps or 'none'}")
        step = steps[-1] if step is None else step
        restored = self._restore_params(step, abstract_params)
        if isinstance(restored, str):
            whole_steps = [
                other_step
                for other_step in steps
                if other_step != step and not isinstance(self._restore_params(other_step, abstract_params), str)
            ]
            raise DamagedCheckpoint(
                f"{self.directory / str(step)}: is damaged ({restored}); whole are the steps "
                f"{', '.join(map(str, whole_steps)) or '(none)'}, and "
                "`launch.py train` with the same --config and --workdir makes it again"
            )
        return restored[0], step, restored[1]

    def _restore_params(self, step: int, abstract_params: Any) -> tuple[Any, dict[str, Any]] | str:
        def read() -> tuple[Any, Leaves, dict[str, Any]]:
            trained, frozen = self._parts(step, abstract_params)
            self._check(step, "params", trained)
            params = read_item(self._item(step, "params"), trained)
            return params, self._restore_frozen(frozen) if frozen else {}, self.meta(step)

        restored = self._tried(read)
        if isinstance(restored, str):
            return restored
        params, frozen, meta = restored
        check_base(meta, parameters_sha256(frozen) if BASE in meta else None, str(self.directory))
        return merge(params, frozen) if frozen else params, meta

    def _parts(self, step: int, abstract_params: Any) -> tuple[Any, Leaves]:
        """What of the parameters each checkpoint holds, and what is beside them all."""
        if not (self.directory / FROZEN).exists():
            return abstract_params, {}
        trained = by_name(self._manager.item_metadata(step)["params"].tree)
        return split(abstract_params, [name for name in by_name(abstract_params) if name not in trained])

    def _check(self, step: int, item: str, abstract: Any) -> None:
        self._compare(f"{step}: {item}", self._manager.item_metadata(step)[item].tree, abstract)

    def _compare(self, item: str, metadata: Any, abstract: Any) -> None:
        # orbax casts another dtype silently and reports another shape late, so the trees are compared before anything
        # is read.
        saved = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in by_name(metadata).items()}
        wanted = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in by_name(abstract).items()}
        for name in sorted(saved.keys() | wanted.keys()):
            expected, stored = wanted.get(name, "absent"), saved.get(name, "absent")
            if expected != stored:
                raise UserError(
                    f"{self.directory / item}/{name} is {stored} in the checkpoint and {expected} by the config; "
                    "use the config it was trained with"
                )


def _make_clean(directory: Path) -> None:
    """Make the directory, without what an interrupted save left in it.

    Not by orbax, which does so in the background and also removes what another checkpointer writes there meanwhile.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob(f"*{UNFINISHED}*"):
        shutil.rmtree(path)


def _who_calls() -> ocp.options.MultiprocessingOptions:
    """All processes call orbax together, which lets them wait for one another; or each by itself, while others wait
    for what it does.

    They are named, so that they wait at jax's coordinator: by default orbax lets them meet in a collective on their
    devices, which on CPUs can meet that of a step.
    """
    if processes.count() == 1:
        return ocp.options.MultiprocessingOptions()
    if processes.is_alone():
        return ocp.options.MultiprocessingOptions(
            primary_host=processes.index(),
            active_processes={processes.index()},
            barrier_sync_key_prefix=f"alone {processes.index()}",
        )
    return ocp.options.MultiprocessingOptions(
        active_processes=set(range(processes.count())), barrier_sync_key_prefix="all"
    )


def check_base(meta: Mapping[str, Any], base_sha256: str | None, where: str) -> None:
    """`UserError` where the checkpoint of an adapter, whose `meta` this is, was trained on another base than the one at
    hand."""
    if meta.get(BASE) != base_sha256:
        raise UserError(
            f"{where}: the adapter in it was trained on another base (sha256 {str(meta.get(BASE))[:16]}) than the one "
            "at hand "
            f"({str(base_sha256)[:16]}); give it back its base, or delete the run's directory to train anew"
        )


def _system_reason(error: Exception) -> str:
    """What the operating system said, out of whatever was raised."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = one_line(error)
    known = (
        "No space left on device",
        "Read-only file system",
        "Permission denied",
        "Disk quota exceeded",
        "File too large",
    )
    return next((reason for reason in known if reason.lower() in text.lower()), _reason(error))


def _reason(error: Exception) -> str:
    """The beginning of what was raised, without what orbax refers to and does not show."""
    text = one_line(error).partition(" See full TensorStore details")[0]
    return text[:160] or type(error).__name__
