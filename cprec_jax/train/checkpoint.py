"""Checkpoints (the only importer of orbax): params, optimizer state and meta as separate items, damaged ones skipped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from cprec_jax.errors import UserError, one_line
from cprec_jax.progress import say
from cprec_jax.train.step import TrainState


class Checkpoints:
    """The checkpoints of one run: DIRECTORY/STEP/{params,opt_state,meta}.

    The newest `keep` and those at `milestones` stay. Saves are written under a temporary name and renamed by orbax; on accelerators
    they run in the background, on the CPU (where the arrays to be saved would be donated to the next step) at once.
    """

    def __init__(self, directory: Path, keep: int = 2, milestones: Sequence[int] = (), read_only: bool = False):
        if read_only and not directory.is_dir():
            raise UserError(f"{directory}: no checkpoints; run `launch.py train` with the same --workdir first")
        kept = policies.AnyPreservationPolicy([policies.LatestN(keep), policies.CustomSteps(list(milestones))])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else kept,
            read_only=read_only,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=jax.default_backend() != "cpu",
        )
        self.directory = directory
        # Handlers are named up front: an unnamed item has no metadata to compare with until it has been restored once.
        handlers = {
            "params": ocp.StandardCheckpointHandler(),
            "opt_state": ocp.StandardCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
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
            "params": ocp.args.StandardSave(state.params),
            "opt_state": ocp.args.StandardSave(state.opt_state),
            "meta": ocp.args.JsonSave(dict(meta)),
        }
        try:
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except OSError as error:
            raise UserError(
                f"{self.directory}: cannot save step {step} ({error.strerror}); free some space, then run again to go on"
            ) from error

    def wait(self) -> None:
        """Wait for saves in the background, and raise what went wrong in them."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def meta(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore_newest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that can be read whole, sharded like `abstract`, and its meta; None when there is none.

        A damaged one is skipped with a warning. One of another model (paths, shapes, dtypes) is a `UserError`.
        """
        for step in reversed(self.steps()):
            try:
                self._check(step, "params", abstract.params)
                self._check(step, "opt_state", abstract.opt_state)
                args = ocp.args.Composite(
                    params=ocp.args.StandardRestore(abstract.params),
                    opt_state=ocp.args.StandardRestore(abstract.opt_state),
                    meta=ocp.args.JsonRestore(),
                )
                restored = self._manager.restore(step, args=args)
            except UserError:
                raise
            except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
                say(f"warning: checkpoint {self.directory / str(step)} is damaged ({one_line(error)[:120]}); trying the one before it")
                continue
            placed = jax.device_put(step, abstract.step.sharding)
            state = TrainState(step=placed.astype(abstract.step.dtype), params=restored["params"], opt_state=restored["opt_state"])
            return state, restored["meta"]
        return None

    def restore_params(self, abstract_params: Any, step: int | None = None) -> tuple[Any, int]:
        """Parameters alone (for evaluation and export) of `step`, or of the newest. `UserError` when it is absent or does not fit."""
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise UserError(f"{self.directory}: {wanted}; there are {steps or 'none'}")
        step = steps[-1] if step is None else step
        self._check(step, "params", abstract_params)
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(abstract_params)))
        except Exception as error:  # as above: whatever it is, that step is of no use
            raise UserError(
                f"{self.directory / str(step)}: cannot be read ({one_line(error)[:160]}); evaluate another step of {steps}"
            ) from error
        return restored["params"], step

    def _check(self, step: int, item: str, abstract: Any) -> None:
        # orbax casts another dtype silently and reports another shape late, so the trees are compared before anything is read.
        metadata = self._manager.item_metadata(step)[item]
        found = {_name(path): (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in jax.tree_util.tree_leaves_with_path(metadata.tree)}
        wanted = {_name(path): (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)}
        for name in sorted(found.keys() | wanted.keys()):
            here, there = wanted.get(name, "absent"), found.get(name, "absent")
            if here != there:
                raise UserError(
                    f"{self.directory / str(step)}: {item}/{name} is {there} in the checkpoint and {here} by the config; "
                    "use the config it was trained with"
                )


def _name(path: Any) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)
