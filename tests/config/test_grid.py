"""The grid of a run: every combination is a run, and what cannot vary is refused."""

from typing import Any

import pytest

from cprec_jax.config.build import Written
from cprec_jax.config.grid import grid_points
from cprec_jax.config.root import make_config
from cprec_jax.errors import UserError

SFT: dict[str, Any] = {"stage": "sft", "sets": ("Garden",)}


def run_with(grid: dict[str, Any], **more: Any) -> Any:
    return make_config({"train": {"steps": 9}, "runs": {"sft": {**SFT, "grid": grid, **more}}}).runs["sft"]


def test_every_combination_is_a_run_with_its_values() -> None:
    run = run_with(
        {"train": {"schedule": {"peak": (1, 3e-4)}, "global_batch": [4, 8]}, "model": {"dropout": (0.0, 0.1)}}
    )
    points = grid_points(run, "config.runs.sft")
    assert len(points) == 8 and len({tuple(point.values.items()) for point in points}) == 8
    for point in points:
        assert point.values["train.schedule.peak"] == point.run.train.schedule.peak and isinstance(
            point.run.train.schedule.peak, float
        )
        assert point.values["train.global_batch"] == point.run.train.global_batch
        assert point.values["model.dropout"] == point.run.model.dropout
        assert point.run.train.steps == 9 and not point.run.grid
    assert grid_points(run_with({}), "config.runs.sft") == []


def test_values_may_come_from_the_command_line() -> None:
    run = run_with({"train": {"schedule": {"peak": Written("(1e-3, 3e-3)")}}})
    assert [point.run.train.schedule.peak for point in grid_points(run, "x")] == [1e-3, 3e-3]


def test_objectives_are_points_too() -> None:
    run = run_with({"sft": {"objective": ("language-model", "catalogue")}})
    assert [point.run.loss.objective for point in grid_points(run, "x")] == ["language-model", "catalogue"]


def test_the_settings_of_an_adapter_are_points_too() -> None:
    run = run_with({"lora": {"rank": (4, 8), "targets": (("layers/mlp/*",), ("layers/*",))}}, lora={"alpha": 16.0})
    points = grid_points(run, "x")
    assert [(point.run.lora.rank, point.run.lora.alpha) for point in points] == [
        (4, 16.0),
        (4, 16.0),
        (8, 16.0),
        (8, 16.0),
    ]
    assert points[0].run.lora.targets == ("layers/mlp/*",)
    with pytest.raises(UserError, match=r"config.runs.sft.grid: lora.rank 0: rank 0 must be at least 1"):
        run_with({"lora": {"rank": (0,)}}, lora={})


def test_the_config_of_a_run_is_that_of_its_point() -> None:
    config = make_config(
        {"train": {"steps": 9}, "runs": {"sft": {**SFT, "seeds": 2, "grid": {"train": {"seed": (3, 5)}}}}}
    )
    assert [config.of_run("sft", seed, point).train_section.seed for seed in (0, 1) for point in (0, 1)] == [3, 5, 4, 6]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"train": {"peak": (1.0,)}}, r"config.runs.sft.grid.train.peak: unknown key"),
        (
            {"train": {"schedule": {"peak": "high"}}},
            r"config.runs.sft.grid.train.schedule.peak: expected a list of values to try, got str",
        ),
        (
            {"train": {"schedule": {"peak": ("high",)}}},
            r"config.runs.sft.grid.train.schedule.peak: expected float, got str 'high'",
        ),
        ({"train": {"schedule": {"peak": ()}}}, r"expected a list of values to try"),
        ({"train": {"shedule": {"peak": (1.0,)}}}, r"config.runs.sft.grid.train.shedule.peak: no section 'shedule'"),
        ({"model": {"hidden_size": (8, 16)}}, r"all points have one model; of it a grid varies dtype"),
        ({"seeds": (1, 2)}, r"a grid varies settings of train, model, lora, cpt, sft"),
        (
            {"lora": {"rank": (4, 8)}},
            r"config.runs.sft.grid.lora.rank: the run has no section 'lora'; add one, such as \{\}",
        ),
        ({"cpt": {"lm_weight": (0.0, 1.0)}}, r"belongs to the stage 'cpt', and the run is of the stage 'sft'"),
        ({"sft": {"users": (0.1, 1.0)}}, r"other rows are no point of a grid; make it a run of its own"),
        (
            {"train": {"micro_batches": (1, 3)}},
            r"config.runs.sft.grid: train.micro_batches 3: global_batch 16 is not a multiple",
        ),
    ],
)
def test_what_cannot_vary_is_one_line(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        run_with(grid)
    assert "\n" not in str(error.value)


def test_a_grid_needs_something_to_choose_by() -> None:
    with pytest.raises(
        UserError, match=r"config.runs.sft: grid needs validation users to choose by; set select to 'nll' or 'ndcg@10'"
    ):
        run_with({"train": {"seed": (1, 2)}}, select="last")
