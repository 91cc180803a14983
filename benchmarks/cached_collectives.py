"""Does XLA keep the order of the collectives of a CPU program that jax read back from its compilation cache?

    python benchmarks/cached_collectives.py

Two processes of one CPU device run a program with two all-reduces that need nothing of each other: one in each turn of
a scan, one beside it. Both compile it and write it into an empty cache; then both read it back; then both compile it
without a cache. docs/scaling.md says why the second dies. Where it survives, a newer jaxlib needs no
`jax_enable_compilation_cache=False` in `cprec_jax/parallel/distributed.py`.

It prints what each of the three did. Three minutes on two cores.
"""

import os
import random
import socket
import subprocess
import sys
import tempfile
import time

STEPS = 100
MISMATCH = "collective mismatch"  # what Gloo says when one gets what belongs to the other


def work(process: int, port: int, cache: bool) -> None:
    """`STEPS` steps of one of the two."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    jax.config.update("jax_enable_compilation_cache", cache)
    mesh = jax.make_mesh((2,), ("data",))
    random_numbers = np.random.default_rng(0)

    def array(*shape: int, split: int | None = None) -> jax.Array:
        values = random_numbers.normal(size=shape).astype(np.float32)
        spec = PartitionSpec(*("data" if axis == split else None for axis in range(len(shape))))
        return jax.make_array_from_callback(shape, NamedSharding(mesh, spec), lambda index: values[index])

    weights, inputs, others = array(32, 448), array(4, 8, 32, split=1), array(4, 8, 448, split=1)
    flags, work_beside = array(2, split=0), [array(64 + i, 448) for i in range(24)]

    @jax.jit
    def step(weights, inputs, others, flags, work_beside):
        def loss(weights, inputs, others):
            return jnp.sum(jnp.square(jnp.tanh(inputs @ weights) * others))

        def turn(sums, i):
            value, gradient = jax.value_and_grad(loss)(weights, inputs[i], others[i])
            return (sums[0] + value, sums[1] + gradient), None

        sums, _ = jax.lax.scan(turn, (jnp.float32(0), jnp.zeros_like(weights)), jnp.arange(4))
        return sums, jnp.sum(flags), [jnp.sort(values) for values in work_beside]

    random.seed(process)
    for _ in range(STEPS):
        jax.block_until_ready(step(weights, inputs, others, flags, work_beside))
        if random.random() < 0.2:  # the two are never in step for long
            time.sleep(random.random() * 0.01)
    os._exit(0)  # no barrier with a process that may be gone


def run(cache: str | None) -> str:
    """What both did."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    if cache is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
    with tempfile.TemporaryFile("w+") as errors:
        both = [
            subprocess.Popen(
                [sys.executable, __file__, str(process), str(port), str(cache is not None)],
                env=environment,
                stderr=errors,
                stdout=subprocess.DEVNULL,
            )
            for process in range(2)
        ]
        codes = [process.wait() for process in both]
        errors.seek(0)
        text = errors.read()
    if codes == [0, 0]:
        return f"{STEPS} steps"
    if MISMATCH not in text:
        raise SystemExit(f"{text}\nexit codes {codes}, and not by what is looked for here")
    return f"died (exit codes {codes[0]} and {codes[1]}: {MISMATCH})"


def main() -> None:
    if len(sys.argv) == 4:
        work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True")
    with tempfile.TemporaryDirectory() as cache:
        print("compiled, and written into the cache:", run(cache), flush=True)
        print("read back from the cache:", run(cache), flush=True)
    print("compiled, without a cache:", run(None), flush=True)


if __name__ == "__main__":
    main()
