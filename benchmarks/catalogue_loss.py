"""How much the catalogue loss costs against the language-model loss and against the same loss with a mask, side by side
in one run.

    python benchmarks/catalogue_loss.py [--quick] [--json FILE] [--shared DIR] [--only {8k,152k,step}] [--rows N]
    [--repeats N] [--cores N]

Each contestant gets the hidden states of 512 positions (`--rows`: times N) and the head, and gives the loss and the
gradients of both. Full head: the chunked cross-entropy of every token over the vocabulary, as for pre-training and
supervised fine-tuning. Mask: the same loss as ours with a [T, V] mask and all logits, as published code does it (the
mask is made beforehand); its value and gradients are compared with ours before anything is timed. 8k: D 128, a
byte-level BPE trained on the titles. 152k: D 896, Qwen2.5's tokenizer and the sizes of its head. Titles and users are
those of Amazon Games in DIR/data, or made up where they are absent. step: loss and gradients of the whole model with 24
layers of D 896 (Qwen2.5-0.5B; --quick: 2 layers), without an optimizer. Contestants take turns, a ratio is the median
over turns. `--cores 1` takes one core and compares CPU seconds: the figure to trust on a machine with other work.

Names: catalogue_speedup_vs_full_head_8k, catalogue_speedup_vs_mask_8k, the same for 152k, catalogue_seconds_8k and
_152k, max_gradient_difference_8k and _152k (relative to the largest entry), columns_ms_per_row_8k and _152k,
step_speedup_vs_full_head, step_seconds.
"""

import argparse
import csv
import dataclasses
import gzip
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

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.forward import CASES as MODELS
from benchmarks.forward import in_turn
from benchmarks.scoring import read_titles
from cprec_jax.model.decoder import Decoder, count_params, init_params
from cprec_jax.model.loss import cross_entropy_sum, next_token_targets
from cprec_jax.parallel.host_memory import keep_freed_memory
from cprec_jax.rows.dataset import expand
from cprec_jax.text import tokenizer
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.tokenizer import Tokenizer
from cprec_jax.train.catalogue_loss import catalogue_nll_sum
from cprec_jax.train.catalogue_rows import Capacities, capacities, row_columns
from cprec_jax.train.catalogue_tables import CatalogueTables, build_tables
from cprec_jax.train.objectives.catalogue import CatalogueLikelihood
from cprec_jax.train.objectives.cpt import Cpt

T = 512
LOSS_CHUNK = 128
SEEN_ROWS = 1000  # whose fullest one says how large the columns are
SET = "amazon7/Games"
SIZES = {"8k": (8192, 128), "152k": (151936, 896)}  # V, D
HEADER = "Items one user chose in Games, oldest first:\n"
TOLERANCE = 1e-4  # of a gradient, relative to its largest entry


@dataclass(frozen=True, kw_only=True)
class World:
    """A catalogue, stored rows of its users, and what the loss needs to know of both."""

    catalogue: Catalogue
    rows: list[dict[str, Any]]
    tables: CatalogueTables
    room: Capacities
    what: str


def read_users(folder: Path) -> tuple[list[str], list[list[int]], bool]:
    """(titles, each user's items in order, whether they are made up)."""
    if not (folder / "item.tsv.gz").is_file():
        titles, _ = read_titles(folder / "item.tsv.gz", 16_874)
        rng = np.random.default_rng(0)
        drawn = len(titles) * rng.random((20_000, 12)) ** 2
        return titles, drawn.astype(int)[:, : rng.integers(5, 12)].tolist(), True
    with gzip.open(folder / "item.tsv.gz", "rt", encoding="utf-8", newline="") as stream:
        read = {
            row["item_id"]: " ".join(row["title"].split())[:300]
            for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        }
    number = {item: index for index, item in enumerate(item for item, title in read.items() if title)}
    users: dict[str, list[tuple[float, int]]] = {}
    with gzip.open(folder / "inter.tsv.gz", "rt", encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["item_id"] in number:
                users.setdefault(row["user_id"], []).append((float(row["timestamp"]), number[row["item_id"]]))
    return [read[item] for item in number], [[item for _, item in sorted(items)] for items in users.values()], False


def pack(catalogue: Catalogue, header: np.ndarray, users: list[list[int]]) -> list[dict[str, Any]]:
    """Stored rows of whole users one after the other; a user who does not fit the rest of a row goes on in the next
    one."""
    rows: list[dict[str, Any]] = []
    tokens, lengths, loss, pieces = [], [], [], []
    for items in users:
        left = list(items)
        while left and len(rows) < SEEN_ROWS:
            room = T - sum(lengths) - len(header)
            fitting = int(np.searchsorted(np.cumsum(catalogue.lengths[left]), room, side="right")) if room > 0 else 0
            if fitting:
                body, _ = catalogue.gather(np.array(left[:fitting]))
                tokens += [header, body]
                loss += [np.zeros(len(header), np.uint8), np.ones(len(body), np.uint8)]
                lengths.append(len(header) + len(body))
                pieces += [0, *(item + 1 for item in left[:fitting])]
                left = left[fitting:]
            if left and lengths:
                padding = (0, T - sum(lengths))
                row = {"tokens": np.pad(np.concatenate(tokens), padding), "loss": np.pad(np.concatenate(loss), padding)}
                rows.append(
                    {
                        **row,
                        "lengths": np.array(lengths),
                        "items": np.array(pieces, np.int32),
                        "row": np.int32(len(rows)),
                    }
                )
                tokens, lengths, loss, pieces = [], [], [], []
            elif left:
                left = left[1:]  # an item that fits no row
    return rows


def make_world(name: str, shared: Path, results: measure.Results) -> World:
    titles, users, made_up = read_users(shared / "data" / SET)
    V, _ = SIZES[name]
    with tempfile.TemporaryDirectory() as folder:
        encoder, kind = _tokenizer(name, titles, V, shared, Path(folder))
        catalogue = Catalogue.build(encoder, titles, "\n")
        header = np.asarray(encoder.encode(HEADER), np.int32)
    rows = pack(catalogue, header, users)
    tables = build_tables(catalogue, {"Games": np.arange(len(titles))})
    begun = time.perf_counter()
    room = capacities(tables, rows)
    for row in rows:
        row_columns(tables, room, row)
    per_row = 1e3 * (time.perf_counter() - begun) / len(rows)
    what = (
        f"{len(titles)} {'made-up ' if made_up else ''}titles, {kind}, {len(tables.allowed)} wide nodes over "
        f"{len(tables.union)} tokens"
    )
    what += f", room for {room.wide} wide decisions and {room.blocks} blocks"
    results.add(
        f"columns_ms_per_row_{name}",
        per_row,
        "ms",
        "",
        f"numpy, one core, capacities and columns of {len(rows)} rows; {what}",
    )
    return World(catalogue=catalogue, rows=rows, tables=tables, room=room, what=what)


def _tokenizer(name: str, titles: list[str], V: int, shared: Path, folder: Path) -> tuple[Tokenizer, str]:
    """Qwen2.5's for 152k where it is there; else one trained on the titles, whose ids are the first of the
    vocabulary."""
    if name == "152k" and (shared / "tokenizers" / "qwen2.5").is_dir():
        return tokenizer.load(shared / "tokenizers" / "qwen2.5"), "Qwen2.5's tokenizer"
    return tokenizer.train(titles, [1] * len(titles), min(V, 8192), folder, across_words=False), "BPE of 8192"


def batch_of(world: World, B: int) -> dict[str, jax.Array]:
    """Rows of the middle of the world as a batch, with the columns of both losses."""
    first = len(world.rows) // 2
    expanded = [expand(row) | row_columns(world.tables, world.room, row) for row in world.rows[first : first + B]]
    return {name: jnp.asarray(np.stack([row[name] for row in expanded])) for name in expanded[0]}


def mask_of(world: World, batch: Mapping[str, jax.Array], V: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """allowed bool[B, T, V], labels int32[B, T], and whether a position decides float32[B, T].

    From our own columns: what is compared is arithmetic. That the columns are right is for
    `tests/train/test_catalogue_rows.py`.
    """
    tokens, decision = np.asarray(batch["tokens"]), np.asarray(batch["decision"])
    allowed = np.zeros((*tokens.shape, V), bool)
    wide, narrow = batch["wide_node"].shape[1], batch["narrow_first"].shape[2]
    decides = decision < wide + batch["narrow_first"][0].size
    for b, t in zip(*np.nonzero(decides), strict=True):
        number = int(decision[b, t])
        if number < wide:
            below = world.tables.union[world.tables.allowed[int(batch["wide_node"][b, number])]]
        else:
            block, column = divmod(number - wide, narrow)
            below = np.asarray(batch["narrow_tokens"][b, block])[
                int(batch["narrow_first"][b, block, column]) : int(batch["narrow_end"][b, block, column])
            ]
        allowed[b, t, below] = True
    return jnp.asarray(allowed), jnp.roll(batch["tokens"], -1, axis=1), jnp.asarray(decides, jnp.float32)


def losses(world: World, batch: Mapping[str, jax.Array], V: int) -> dict[str, Callable[[jax.Array, jax.Array], Any]]:
    """Name -> jitted function of (x, w) that gives the loss and both gradients."""
    labels, weights = next_token_targets(batch["tokens"], batch["segment_ids"], batch["loss_mask"])
    allowed, targets, decides = mask_of(world, batch, V)

    def mask(x_BTD: jax.Array, w_VD: jax.Array, allowed_BTV: jax.Array) -> jax.Array:
        logits = jnp.where(allowed_BTV, jnp.einsum("btd,vd->btv", x_BTD, w_VD), -1e30)
        picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jnp.sum(decides * (jax.nn.logsumexp(logits, axis=-1) - picked)) + jnp.sum(batch["log_copies"])

    grad = lambda f: jax.jit(jax.value_and_grad(f, argnums=(0, 1)))  # noqa: E731
    masked = grad(mask)
    columns = dict(batch)
    catalogue = grad(lambda x, w, given: catalogue_nll_sum(x, w, given, world.tables))
    full = grad(lambda x, w, labels, weights: cross_entropy_sum(x, w, labels, weights, LOSS_CHUNK))
    return {
        "catalogue": lambda x, w: catalogue(x, w, columns),
        "full_head": lambda x, w: full(x, w, labels, weights),
        "mask": lambda x, w: masked(x, w, allowed),
    }


def loss_alone(name: str, world: World, B: int, repeats: int, results: measure.Results) -> None:
    V, D = SIZES[name]
    batch = batch_of(world, B)
    keys = jax.random.split(jax.random.key(0))
    x, w = jax.random.normal(keys[0], (B, T, D)), 0.1 * jax.random.normal(keys[1], (V, D))
    contestants = losses(world, batch, V)
    (value, grads), (expected, others) = (jax.device_get(contestants[who](x, w)) for who in ("catalogue", "mask"))
    assert abs(value - expected) < 1e-4 * abs(expected), f"loss {value} against {expected}"
    worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(grads, others, strict=True))
    results.add(f"max_gradient_difference_{name}", worst, "", "mask", "smaller is better")
    assert worst < TOLERANCE, f"gradients differ by {worst}"
    works = {who: lambda f=f: jax.block_until_ready(f(x, w)) for who, f in contestants.items()}
    decided = int((batch["decision"] < batch["decision"].max()).sum())
    shape = f"{B} x {T} positions, D {D}, V {V}, float32; {int(batch['n_items'].sum())} items, {decided} decisions"
    compare(f"catalogue_%s_{name}", works, repeats, shape, results)


def compare(
    name: str, works: Mapping[str, Callable[[], Any]], repeats: int, what: str, results: measure.Results
) -> None:
    """Rows of ours in seconds, and of the others' time over ours."""
    for work in works.values():
        work()
    times = in_turn(works, repeats)
    (_, ours_seconds), *others = times.items()
    results.add(name % "seconds", float(np.median(ours_seconds)), "s", "", f"{what}, median of {repeats}")
    for who, seconds in others:
        low, value, high = np.quantile(seconds / ours_seconds, (0.25, 0.5, 0.75))
        medians = f"{np.median(ours_seconds):.4f} s against {np.median(seconds):.4f} s"
        detail = f"{medians}; {repeats} turns, quartiles {low:.2f}-{high:.2f}"
        results.add(name % f"speedup_vs_{who}", float(value), "x", who, detail)


def whole_step(world: World, layers: int, B: int, repeats: int, results: measure.Results) -> None:
    config = dataclasses.replace(MODELS["qwen05b"].config, num_layers=layers)
    decoder = Decoder(config)
    params = jax.jit(lambda: init_params(decoder, jax.random.key(0)))()
    batch = batch_of(world, B)
    common: Any = {"decoder": decoder, "loss_chunk": LOSS_CHUNK}
    catalogue = CatalogueLikelihood(
        **common, lm_weight=0.0, loss_temperature=1.0, tables=world.tables, capacities=world.room
    )
    works = {}
    for who, loss in {"catalogue": catalogue, "full_head": Cpt(**common)}.items():
        step = jax.jit(
            jax.value_and_grad(lambda params, batch, loss=loss: loss.sums(params, batch, None)[loss.terms[0]])
        )
        given = {column: batch[column] for column in loss.columns}
        works[who] = lambda step=step, given=given: jax.block_until_ready(step(params, given))[0]
    compare(
        "step_%s",
        works,
        repeats,
        f"{layers} layers, {count_params(config) / 1e6:.0f}M, float32, {B} x {T} tokens",
        results,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under three minutes on two cores")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument(
        "--shared",
        type=Path,
        default=Path(__file__).resolve().parents[2] / "shared",
        help="folder of data and tokenizers",
    )
    parser.add_argument("--only", choices=(*SIZES, "step"))
    parser.add_argument("--rows", type=int, default=1, help="rows of 512 positions")
    parser.add_argument("--repeats", type=int, help="turns")
    parser.add_argument("--layers", type=int, help="of the whole step")
    parser.add_argument("--cores", type=int, help="use only so many cores; 1: CPU seconds are compared")
    options = parser.parse_args(arguments)
    if options.cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # before jax makes its threads
    keep_freed_memory()  # as `launch.py train` does
    repeats = options.repeats or (3 if options.quick else 9)
    results = measure.Results()
    print(f"{measure.machine()}, jax {jax.__version__}, {jax.devices()[0].device_kind}", flush=True)
    for name in SIZES:
        if options.only in (None, name):
            loss_alone(name, make_world(name, options.shared, results), options.rows, repeats, results)
    if options.only in (None, "step"):
        layers = options.layers or (2 if options.quick else 24)
        whole_step(make_world("152k", options.shared, results), layers, options.rows, min(repeats, 5), results)
    results.write(options.json)


if __name__ == "__main__":
    main()
