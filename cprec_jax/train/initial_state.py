"""The initial state of a run, and which of its leaves are trained."""

import functools
from typing import Any

import jax
import optax

from cprec_jax.config.lora import shown
from cprec_jax.errors import UserError
from cprec_jax.hf.hub import locate
from cprec_jax.model.decoder import abstract_params, init_params
from cprec_jax.parallel import rules
from cprec_jax.progress import say
from cprec_jax.train.description import adapters_of_run, read_description
from cprec_jax.train.leaves import Leaves, by_name, matching, merge, split
from cprec_jax.train.lora import base_names, fresh_adapter, same_adapters
from cprec_jax.train.overview import overview
from cprec_jax.train.prepared_run import PreparedRun
from cprec_jax.train.restore import restore_decoder, restore_stored
from cprec_jax.train.start import Start
from cprec_jax.train.state import TrainState, new_state


def initial_state(
    prepared: PreparedRun, mesh: jax.sharding.Mesh, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Leaves]:
    """A state at step 0 with new or loaded parameters, and the frozen leaves."""
    params = _initial_params(prepared, mesh)
    if prepared.decoder.adapters is not None and len(by_name(params)) < len(
        by_name(abstract_params(prepared.decoder)[0])
    ):
        params = merge(params, fresh_adapter(prepared.decoder, prepared.train.seed, mesh))
    trained, frozen = split(params, _frozen_names(prepared))
    return new_state(trained, optimizer, mesh), frozen


def _initial_params(prepared: PreparedRun, mesh: jax.sharding.Mesh) -> Any:
    """The parameters that the run starts from, float32: those of a model, with an adapter where it starts from one."""
    decoder = prepared.decoder.clone(adapters=None)
    param_shardings = rules.param_shardings(mesh, *abstract_params(decoder))
    if prepared.start is not None:
        return _params_of_start(prepared, prepared.start, mesh)
    if prepared.init_from is None:
        make = jax.jit(functools.partial(init_params, decoder), out_shardings=param_shardings)
        return make(jax.random.key(prepared.train.seed))
    from cprec_jax.hf.vocabulary import load_with_room

    base = locate(prepared.init_from)
    sizes = prepared.base_vocab_size, prepared.vocab_size
    return load_with_room(base, prepared.decoder.config, *sizes, param_shardings, prepared.named_tokens)


def _params_of_start(prepared: PreparedRun, start: Start, mesh: jax.sharding.Mesh) -> Any:
    """The parameters of a checkpoint of another run.

    A run with an adapter trains that of the other run further; a run without one gets the sum of base and adapter.
    Raises `UserError` for adapters that differ.
    """
    start_adapters, adapters = adapters_of_run(start.directory), prepared.decoder.adapters
    if start_adapters is None or adapters is None:
        return restore_decoder(start.directory, start.step, mesh=mesh).params
    if not same_adapters(start_adapters, adapters):
        start_lora, lora = read_description(start.directory)["lora"], prepared.lora
        assert lora is not None
        raise UserError(
            f"{prepared.directory.name}: starts from {start.directory.name}, whose adapter has {shown(start_lora)}, "
            f"and its own has {shown(lora)}; give both the same, or take `lora` away from one of them"
        )
    return restore_stored(start.directory, start.step, mesh=mesh).params


def _frozen_names(prepared: PreparedRun) -> frozenset[str]:
    """The leaves that match `config.train.frozen`; with an adapter also all leaves of the base.

    Raises `UserError` where nothing is left to train.
    """
    names = list(by_name(abstract_params(prepared.decoder)[0]))
    frozen = matching(prepared.train.frozen, names, "config.train.frozen")
    if prepared.decoder.adapters is not None:
        frozen |= base_names(abstract_params(prepared.decoder)[0])
    if len(frozen) == len(names):
        raise UserError("config.train.frozen: nothing is left to train; name fewer parameters")
    return frozen


def trained_axes(prepared: PreparedRun) -> dict[str, tuple[str, ...]]:
    """The logical axes of the trained leaves, by name."""
    axes = by_name(abstract_params(prepared.decoder)[1], is_leaf=lambda node: isinstance(node, tuple))
    frozen = _frozen_names(prepared)
    return {name: leaf_axes for name, leaf_axes in axes.items() if name not in frozen}


def say_what_is_trained(prepared: PreparedRun) -> None:
    """Log the table of parameters (`overview`). Raises `UserError` for a pattern that matches nothing."""
    shapes, axes = abstract_params(prepared.decoder)
    axes_by_name = by_name(axes, is_leaf=lambda node: isinstance(node, tuple))
    table = overview(shapes, axes_by_name, _frozen_names(prepared), prepared.train.optimizer)
    if jax.process_index() == 0:
        say(table)
