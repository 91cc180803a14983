"""How fast the decoder is against transformers + PyTorch: the same weights, tokens and dtype, side by side in one run.

    python benchmarks/forward.py [--quick] [--json FILE] [--model llama25m|qwen05b] [--device cpu|gpu] [--no-compile]
    [--cores N]

Forward: logits of every position. Train: the mean next-token loss and its gradient in every parameter. PyTorch runs
eager (with its fused attention, transformers' default) and under `torch.compile`; the contestants take turns, a ratio
is the median over turns, and logits, loss and gradients are compared before anything is timed. On a GPU the default is
Qwen2.5-0.5B's shape in bfloat16 at T = 2048, elsewhere a Llama of 25M parameters in float32 at T = 512. `--cores 1`
takes one core and compares CPU seconds instead of wall seconds: the figure to trust on a machine that does other work
at the same time (waiting threads of PyTorch spin, so that with more cores neither clock is fair there).

Names: forward_speedup_vs_torch_eager, train_speedup_vs_torch_eager, the same with `_vs_torch_compile`; forward_seconds,
train_seconds (ours), max_logit_difference, max_gradient_difference (of a tensor, relative to its largest entry).
"""

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the device

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from cprec_jax.hf import keys
from cprec_jax.hf.save import save
from cprec_jax.model.backends import attend_for
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder, count_params, init_params, logits
from cprec_jax.parallel.host_memory import keep_freed_memory
from cprec_jax.train.objectives.cpt import Cpt

LOSS_CHUNK = 128


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, and the input it is timed on (`quick_batch` with --quick)."""

    config: DecoderConfig
    dtype: str
    batch: int
    quick_batch: int
    length: int


CASES = {
    "llama25m": Case(
        config=DecoderConfig(
            vocab_size=12288,
            hidden_size=512,
            intermediate_size=1408,
            num_layers=6,
            num_heads=8,
            num_kv_heads=8,
            head_dim=64,
            initializer_range=0.05,
        ),
        dtype="float32",
        batch=8,
        quick_batch=2,
        length=512,
    ),
    "qwen05b": Case(
        config=DecoderConfig(
            model_type="qwen2",
            vocab_size=151936,
            hidden_size=896,
            intermediate_size=4864,
            num_layers=24,
            num_heads=14,
            num_kv_heads=2,
            head_dim=64,
            rope_theta=1e6,
            norm_eps=1e-6,
            max_position_embeddings=32768,
            attention_bias=True,
        ),
        dtype="bfloat16",
        batch=8,
        quick_batch=2,
        length=2048,
    ),
}
# Of logits, and of a gradient relative to the largest entry of its tensor. bfloat16 has 8 bits; sums are made in
# different orders.
TOLERANCE = {"float32": (1e-3, 1e-3), "bfloat16": (0.5, 0.1)}


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """`forward()` gives logits, `train()` (loss, gradients); both return when the device is done."""

    name: str
    forward: Callable[[], Any]
    train: Callable[[], tuple[Any, Any]]


def jax_contestant(decoder: Decoder, params: Any, tokens_BT: np.ndarray) -> Contestant:
    """The decoder and the objective that `launch.py train` uses; rows of one document each."""
    tokens = jnp.asarray(tokens_BT, jnp.int32)
    batch = {
        "tokens": tokens,
        "positions": jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape),
        "segment_ids": jnp.ones_like(tokens),
        "loss_mask": jnp.ones(tokens.shape, jnp.float32),
    }

    @jax.jit
    def forward(params: Any, batch: Any) -> jax.Array:
        x_BTD: Any = decoder.apply({"params": params}, batch["tokens"], batch["positions"], (batch["segment_ids"],))
        return logits(params, decoder.config, x_BTD)

    objective = Cpt(decoder=decoder, loss_chunk=LOSS_CHUNK)

    @jax.jit
    def train(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            sums, weights = objective.sums(params, batch, None), objective.weights(batch)
            return sums["token_nll"] / weights["token_nll"]

        return jax.value_and_grad(loss)(params)

    return Contestant(
        name="jax",
        forward=lambda: jax.block_until_ready(forward(params, batch)),
        train=lambda: jax.block_until_ready(train(params, batch)),
    )


def torch_contestant(model: Any, tokens_BT: np.ndarray, compiled: bool) -> Contestant:
    """transformers' model of the same weights."""
    import torch

    device = next(model.parameters()).device
    tokens = torch.from_numpy(tokens_BT).to(device)
    call = torch.compile(model) if compiled else model

    def done() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def forward() -> Any:
        with torch.no_grad():
            output = call(input_ids=tokens, use_cache=False).logits
        done()
        return output

    def train() -> tuple[Any, Any]:
        model.zero_grad(set_to_none=True)
        loss = call(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        done()
        return loss, {name: parameter.grad for name, parameter in model.named_parameters()}

    return Contestant(name="torch_compile" if compiled else "torch_eager", forward=forward, train=train)


def load_torch(params: Any, config: DecoderConfig, dtype: str, gpu: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "model", params, config, None, "benchmark", dtype)
        model = AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=getattr(torch, dtype))
    return model.to("cuda" if gpu else "cpu").train()


def differences(a: Contestant, b: Contestant, config: DecoderConfig) -> tuple[float, float]:
    """The largest difference of a logit, and of a gradient relative to the largest entry of its tensor."""
    to_numpy = lambda x: x.detach().float().cpu().numpy()  # noqa: E731
    logit = float(np.abs(np.asarray(a.forward(), np.float32) - to_numpy(b.forward())).max())
    our_loss, our_grads = a.train()
    their_loss, their_grads = b.train()
    our_value, their_value = float(our_loss), their_loss.item()
    assert abs(our_value - their_value) < 1e-3 * their_value, f"loss {our_value} against {their_value}"
    worst = 0.0
    for tensor in keys.tensors(config):
        mine: Any = functools.reduce(lambda tree, key: tree[key], tensor.path, our_grads)
        mine = np.asarray(mine if tensor.layer is None else mine[tensor.layer], np.float32)
        theirs_value = to_numpy(their_grads[tensor.name])
        worst = max(worst, float(np.abs(tensor.layout.to_hf(mine) - theirs_value).max() / np.abs(theirs_value).max()))
    return logit, worst


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds, or on one core CPU seconds."""
    clock = time.process_time if len(os.sched_getaffinity(0)) == 1 else time.perf_counter
    begun = clock()
    work()
    return clock() - begun


def in_turn(works: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds float[repeats] of each; who goes first changes from turn to turn."""
    names = list(works)
    times = np.zeros((len(names), repeats))
    for turn in range(repeats):
        for index in np.roll(np.arange(len(names)), turn):
            times[index, turn] = seconds(works[names[index]])
    return dict(zip(names, times, strict=True))


def compare(mode: str, contestants: list[Contestant], repeats: int, what: str, results: measure.Results) -> None:
    works = {c.name: getattr(c, mode) for c in contestants}
    for work in works.values():  # PyTorch compiles again when it meets a second mode
        work(), work()
    times = in_turn(works, repeats)
    jax_seconds = times["jax"]
    results.add(f"{mode}_seconds", float(np.median(jax_seconds)), "s", "", f"{what}, median of {repeats}")
    for name, other_seconds in times.items():
        if name != "jax":
            low, value, high = np.quantile(other_seconds / jax_seconds, (0.25, 0.5, 0.75))
            detail = (
                f"{what}: {np.median(jax_seconds):.3f} s against {np.median(other_seconds):.3f} s; "
                f"{repeats} turns, quartiles {low:.2f}-{high:.2f}"
            )
            results.add(f"{mode}_speedup_vs_{name}", float(value), "x", name, detail)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under two minutes on two cores")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--model", choices=sorted(CASES))
    parser.add_argument("--device", choices=("cpu", "gpu"), help="default: a GPU where jax and PyTorch both see one")
    parser.add_argument("--batch", type=int, help="rows")
    parser.add_argument("--repeats", type=int, help="turns")
    parser.add_argument("--cores", type=int, help="use only so many cores; 1: CPU seconds are compared")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args(arguments)
    if options.cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # before jax makes its threads
    keep_freed_memory()  # as `launch.py train` does; PyTorch, in the same process, gains by it, too
    gpu = has_gpu() if options.device is None else options.device == "gpu"
    case = CASES[options.model or ("qwen05b" if gpu else "llama25m")]
    B = options.batch or (case.quick_batch if options.quick else case.batch)
    repeats = options.repeats or (5 if options.quick else 15)

    with jax.default_device(jax.devices("gpu" if gpu else "cpu")[0]):
        attend = attend_for("auto" if gpu else "xla", case.config, case.dtype, case.length)
        # On a CPU unrolled, as the configs for one are: nothing is copied into and out of stacks of layers.
        decoder = Decoder(case.config, dtype=jnp.dtype(case.dtype), attend=attend, unroll=not gpu)
        params = jax.jit(
            lambda: jax.tree.map(lambda x: x.astype(case.dtype), init_params(decoder, jax.random.key(0)))
        )()
        tokens_BT = np.random.default_rng(0).integers(0, case.config.vocab_size, (B, case.length))
        contestant = jax_contestant(decoder, params, tokens_BT)
        model = load_torch(params, case.config, case.dtype, gpu)
        contestants = [contestant, torch_contestant(model, tokens_BT, compiled=False)]
        if not options.no_compile:
            contestants.append(torch_contestant(model, tokens_BT, compiled=True))
        run(case, contestants, B, repeats).write(options.json)


def run(case: Case, contestants: list[Contestant], B: int, repeats: int) -> measure.Results:
    import torch

    where = (
        f"{jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores, jax {jax.__version__}, torch "
        f"{torch.__version__}"
    )
    what = f"{count_params(case.config) / 1e6:.1f}M {case.config.model_type}, {case.dtype}, {B} x {case.length} tokens"
    print(f"{what}; {where}", flush=True)
    largest = differences(contestants[0], contestants[1], case.config)
    results = measure.Results()
    for name, value, limit in zip(("logit", "gradient"), largest, TOLERANCE[case.dtype], strict=True):
        results.add(f"max_{name}_difference", value, "", "torch_eager", "smaller is better")
        assert value < limit, f"{name}s differ by {value}"
    for mode in ("forward", "train"):
        compare(mode, contestants, repeats, what, results)
    return results


def has_gpu() -> bool:
    import torch

    return jax.default_backend() == "gpu" and torch.cuda.is_available()


if __name__ == "__main__":
    main()
