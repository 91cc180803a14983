"""Between steps: nothing moves unasked in the steady state, the profiler window, and the loss of several terms."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cprec_jax.config.train import TrainSpec
from cprec_jax.train.actions import Done, Profile
from cprec_jax.train.loop import Batch, train_loop
from cprec_jax.train.state import TrainState
from cprec_jax.train.step import train_step
from tests import road
from tests.run_jobs import train


class Action:
    """An action that notes when it is called."""

    def __init__(self, due: bool = False):
        self.calls: list[Any] = []
        self.due = due

    def __call__(self, *arguments: Any, **options: Any) -> None:
        self.calls.append(arguments[0])

    def is_due(self, step: int) -> bool:
        return self.due

    def is_asked(self, before: Done | None) -> bool:
        return False

    def close(self, *_: Any) -> None:
        self.calls.append("closed")


def looped(step: Any, steps: int, **actions: Any) -> Any:
    made: Any = {name: Action() for name in ("log", "save", "stop", "profile")} | actions
    state: Any = jax.device_put(np.float32(0))
    rows = [
        Batch(step=number, rows={}, arrays={"x": jax.device_put(np.float32(number))}) for number in range(1, steps + 1)
    ]
    return train_loop(state, {}, rows, step, **made), made


def test_a_step_is_logged_after_the_next_one_is_dispatched() -> None:
    order: list[str] = []

    class Log(Action):
        def __call__(self, done: Any, *_: Any) -> None:
            order.append(f"log {done.step}")

    def step(state: Any, frozen: Any, batch: Any) -> Any:
        order.append("step")
        return state + batch["x"], {"loss": state}

    state, _ = looped(step, 3, log=Log())
    assert order == ["step", "step", "log 1", "step", "log 2"] and float(state) == 6.0
    order.clear()
    _, made = looped(step, 2, log=Log(), save=Action(due=True))
    assert order == ["step", "log 1", "step", "log 2"] and len(made["save"].calls) == 2


def test_a_transfer_that_nobody_asked_for_is_an_error_after_the_first_step() -> None:
    taken: list[int] = []

    def step(state: Any, frozen: Any, batch: Any) -> Any:
        taken.append(1)
        return state + np.ones(3, np.float32).sum() * jnp.asarray(np.ones(3, np.float32)).sum(), {"loss": state}

    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        looped(step, 3)
    assert len(taken) == 2


def test_the_profiler_window(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda _: traced.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: traced.append("stop"))
    for window, expected in (
        ((2, 4), {2: "start", 4: "stop"}),
        ((0, 1), {0: "start", 1: "stop"}),
        ((8, 99), {8: "start", "close": "stop"}),
    ):
        profile, found = Profile(window, workdir), {}
        for step in [*range(10), "close"]:
            if step == "close":
                profile.close(1)  # type: ignore[arg-type]  # the state is only waited for
            else:
                profile(step, 1)  # type: ignore[arg-type]  # as above
            if traced:
                found[step] = traced.pop()
        assert found == expected
    assert TrainSpec(steps=9, profile="100:105").profile_window == (100, 105)
    for text in ("100", "5:5", "a:b", "-1:3"):
        with pytest.raises(ValueError, match="profile"):
            TrainSpec(steps=9, profile=text)


def test_a_run_that_is_profiled(workdir: Path) -> None:
    train(road.config(train={"steps": 4, "milestones": [], "profile": "1:3", "loggers": ("jsonl",)}), workdir)
    assert list((workdir / "runs/cpt/profile").rglob("*.xplane.pb"))
    assert not (workdir / "runs/cpt/events").exists()


class TwoTerms:
    """Nats per token and, with a factor, squares per item; hits are only reported."""

    columns = ("x", "tokens", "items")
    terms = ("tokens", "items")

    def weights(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {"tokens": batch["tokens"].sum(), "items": batch["items"].sum(), "hits": batch["items"].sum()}

    def sums(self, params: Any, batch: Mapping[str, Any], key: Any) -> dict[str, Any]:
        scores = params["w"] * params["fixed"] * batch["x"]
        items = batch["items"]
        return {
            "tokens": jnp.sum(batch["tokens"] * scores),
            "items": 0.5 * jnp.sum(items * scores**2),
            "hits": jnp.sum(items * (scores > 0)),
        }

    def counts(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {"padding_free": batch["tokens"].sum()}


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_loss_of_several_terms_adds_up_over_micro_batches(micro_batches: int) -> None:
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=8), "tokens": rng.integers(1, 9, 8), "items": np.array([0, 3, 0, 0, 1, 0, 0, 2])}
    batch = {name: jnp.asarray(value, jnp.float32) for name, value in batch.items()}
    optimizer = optax.sgd(1.0)
    trained, frozen = {"w": jnp.float32(0.7)}, {"fixed": jnp.float32(2.0)}
    state = TrainState(step=jnp.zeros((), jnp.int32), trained=trained, opt_state=optimizer.init(trained))
    step = functools.partial(
        train_step,
        objective=TwoTerms(),
        optimizer=optimizer,
        schedule=lambda _: 1.0,
        micro_batches=micro_batches,
        dropout_seed=None,
    )
    after, metrics = jax.jit(step)(state, frozen, batch)

    def loss(w: Any) -> Any:
        scores = 2.0 * w * batch["x"]
        tokens = jnp.sum(batch["tokens"] * scores) / batch["tokens"].sum()
        return tokens + 0.5 * jnp.sum(batch["items"] * scores**2) / batch["items"].sum()

    value, gradient = jax.value_and_grad(loss)(0.7)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics["tokens"] + metrics["items"]) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics["hits"]) == pytest.approx(float((batch["items"] * (batch["x"] > 0)).sum() / 6))
    assert float(after.trained["w"]) == pytest.approx(0.7 - float(gradient), rel=1e-5) and set(after.trained) == {"w"}
