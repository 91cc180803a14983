"""How much faster titles are scored here than with one sequence a candidate, side by side in one run, equality checked.

    python benchmarks/scoring.py [--quick] [--json FILE] [--data DIR] [--no-torch] [--only {20,100,3k,17k,100k}]

Naive: every candidate is a full sequence of its own (prompt and title), in a batch, with the head at the title's
positions only. Torch: the same sequences through transformers' LlamaForCausalLM with the same weights, logits
everywhere, as the published code does it. For a whole catalogue the naive time is that of a random sample of titles,
scaled; the titles of a batch are of like length, to its advantage.

Names: shared_prefix_speedup_20, shared_prefix_speedup_100 (rule `sum`, 256-token prompt, titles of 16 tokens),
trie_speedup_3k, trie_speedup_17k (exact rule `trie` over MovieLens-1M and Amazon Games titles, or over made-up ones
where DIR has none), the same with `_vs_torch`, trie_ms_per_user_3k, trie_ms_per_user_17k, and max_score_difference
(over everything that was compared). `--only 100k` adds the same for 100,000 made-up titles, which takes some minutes;
the detail of trie_ms_per_user_100k says how much memory it took.
"""

import argparse
import csv
import functools
import gzip
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from cprec_jax.inference.shared_prefix import candidate_log_likelihoods, label_log_probs
from cprec_jax.inference.trie.exact import DeviceTrie, to_device, trie_log_probs
from cprec_jax.inference.trie.trie import TitleTrie, build_trie
from cprec_jax.model.config import DecoderConfig
from cprec_jax.model.decoder import Decoder, count_params, head_weight, init_params
from cprec_jax.text import tokenizer
from cprec_jax.text.catalogue import Catalogue

PROMPT, TITLE = 256, 16
SUFFIX = {"naive": "", "torch": "_vs_torch"}
CATALOGUES = {
    "3k": ("ml1m/item.tsv.gz", 3_416),
    "17k": ("amazon7/Games/item.tsv.gz", 16_874),
    "100k": ("made-up", 100_000),
}
LARGE = "100k"  # only when asked for
CONFIG = DecoderConfig(
    vocab_size=8192,
    hidden_size=256,
    intermediate_size=768,
    num_layers=4,
    num_heads=4,
    num_kv_heads=4,
    head_dim=64,
    max_position_embeddings=1024,
    initializer_range=0.1,  # far from uniform predictions, so that equality means something
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Full sequences int32[n, PROMPT + t], one a title, padded on the right, and the titles' lengths."""

    tokens: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Model:
    """The same model in JAX and (torch None: not compared) in PyTorch."""

    decoder: Decoder
    params: Any
    torch: Any


def sequences(prompt: np.ndarray, titles: list[np.ndarray]) -> Batch:
    lengths = np.array([len(title) for title in titles])
    tokens = np.zeros((len(titles), len(prompt) + -(-int(lengths.max()) // 8) * 8), np.int32)
    for row, title in zip(tokens, titles, strict=True):
        row[: len(prompt) + len(title)] = np.concatenate([prompt, title])
    return Batch(tokens=tokens, lengths=lengths)


@jax.jit
def _naive(params: Any, tokens_nT: jax.Array, lengths_n: jax.Array) -> jax.Array:
    """log p of each title's tokens, float32[n, t], 0 on padding."""
    positions = jnp.broadcast_to(jnp.arange(tokens_nT.shape[1]), tokens_nT.shape)
    segments = (positions < PROMPT + lengths_n[:, None]).astype(jnp.int32)
    x_nTD: Any = Decoder(CONFIG).apply({"params": params}, tokens_nT, positions, (segments,))
    x_ntD, labels_nt = x_nTD[:, PROMPT - 1 : -1], tokens_nT[:, PROMPT:]
    log_probs_nt = label_log_probs(
        x_ntD.reshape(-1, CONFIG.hidden_size), head_weight(params, CONFIG), labels_nt.reshape(-1)
    ).reshape(labels_nt.shape)
    return jnp.where(jnp.arange(labels_nt.shape[1]) < lengths_n[:, None], log_probs_nt, 0)


def naive(model: Model, batches: list[Batch]) -> np.ndarray:
    return np.concatenate([np.asarray(_naive(model.params, b.tokens, b.lengths).sum(axis=1)) for b in batches])


def by_torch(model: Model, batches: list[Batch]) -> np.ndarray:
    import torch

    log_probs = []
    with torch.inference_mode():
        for b in batches:
            tokens = torch.from_numpy(b.tokens.astype(np.int64))
            inside = torch.arange(tokens.shape[1])[None] < PROMPT + torch.from_numpy(b.lengths)[:, None]
            logits = model.torch(input_ids=tokens, attention_mask=inside.long()).logits[:, PROMPT - 1 : -1]
            picked = torch.log_softmax(logits.float(), dim=-1).gather(2, tokens[:, PROMPT:, None])[..., 0]
            log_probs.append((picked * inside[:, PROMPT:]).sum(1).numpy())
    return np.concatenate(log_probs)


def opponents(model: Model) -> dict[str, Callable[[Model, list[Batch]], np.ndarray]]:
    return {"naive": naive} | ({} if model.torch is None else {"torch": by_torch})


def seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - begun


def ratio(work: Callable[[], Any], opponent: Callable[[], Any], repeats: int) -> tuple[float, float, float]:
    """(median of their time / our time over paired runs, median of ours, median of theirs); both are run once
    before."""
    work(), opponent()
    pairs = [(seconds(work), seconds(opponent)) for _ in range(repeats)]
    work_seconds, opponent_seconds = np.median(pairs, axis=0)
    return float(np.median([b / a for a, b in pairs])), float(work_seconds), float(opponent_seconds)


@dataclass
class Results(measure.Results):
    """The rows of the table, and the largest difference of scores seen, and in which comparison."""

    difference: float = 0.0
    where: str = ""

    def compared(self, a: np.ndarray, b: np.ndarray, where: str) -> None:
        difference = float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())
        if difference > self.difference:
            self.difference, self.where = difference, where


def shared_prefix(model: Model, count: int, repeats: int, results: Results) -> None:
    rng = np.random.default_rng(count)
    prompt = rng.integers(0, CONFIG.vocab_size, PROMPT).astype(np.int32)
    titles = rng.integers(0, CONFIG.vocab_size, (count, TITLE)).astype(np.int32)
    batches = [sequences(prompt, list(titles))]
    score = jax.jit(candidate_log_likelihoods, static_argnums=0)
    length, lengths = np.array([PROMPT], np.int32), np.full((1, count), TITLE, np.int32)

    def score_all() -> jax.Array:
        return score(model.decoder, model.params, prompt[None], length, titles[None], lengths)[0]

    what = f"{count} candidates of {TITLE} tokens, {PROMPT}-token prompt"
    for against, work in opponents(model).items():
        results.compared(np.asarray(score_all()), work(model, batches), f"{count} candidates against {against}")
        value, work_seconds, other_seconds = ratio(score_all, functools.partial(work, model, batches), repeats)
        detail = f"{what}: {1e3 * work_seconds:.0f} ms against {1e3 * other_seconds:.0f} ms"
        results.add(f"shared_prefix_speedup_{count}" + SUFFIX[against], value, "x", against, detail)


def whole_catalogue(
    model: Model, name: str, titles: list[str], made_up: bool, sample: int, repeats: int, results: Results
) -> None:
    catalogue = tokenize(titles)
    trie = build_trie(catalogue.tokens, catalogue.offsets)
    device_trie = to_device(trie)
    rng = np.random.default_rng(7)
    prompt = rng.integers(0, CONFIG.vocab_size, PROMPT).astype(np.int32)
    chosen = rng.choice(len(titles), sample, replace=False)
    chosen = chosen[np.argsort(catalogue.lengths[chosen], kind="stable")]
    batches = [
        sequences(prompt, [catalogue.item(i) for i in part]) for part in np.array_split(chosen, max(1, sample // 16))
    ]
    score = jax.jit(trie_log_probs, static_argnums=0)
    length = np.array([PROMPT], np.int32)

    def score_all() -> jax.Array:
        return score(model.decoder, model.params, device_trie, prompt[None], length)[0]

    log_probs = np.asarray(score_all(), np.float64)
    assert abs(np.exp(log_probs).sum() - 1) < 1e-5, "the probabilities of a catalogue sum to 1"
    results.compared(log_probs[chosen], renormalised(model, trie, batches, chosen), f"catalogue {name}")
    scale = len(titles) / sample
    kind = "made-up titles" if made_up else "titles"
    what = f"{len(titles)} {kind}, {len(catalogue.tokens)} tokens, {trie.nodes} skeleton nodes, {PROMPT}-token prompt"
    for against, work in opponents(model).items():
        value, work_seconds, other_seconds = ratio(score_all, functools.partial(work, model, batches), repeats)
        measured = f"{other_seconds * scale:.1f} s (from {sample} titles in {other_seconds:.2f} s)"
        detail = f"{what}: {work_seconds:.2f} s against {measured}"
        results.add(f"trie_speedup_{name}" + SUFFIX[against], value * scale, "x", against, detail)
    users = users_per_second(model, device_trie, 4, repeats)
    detail = f"{what}; 5,000 users in {5000 / users / 60:.0f} minutes; {peak_memory():.1f} GiB"
    results.add(f"trie_ms_per_user_{name}", 1e3 / users, "ms", "", detail)


def peak_memory() -> float:
    """The largest resident set of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def users_per_second(model: Model, trie: DeviceTrie, batch: int, repeats: int) -> float:
    tokens = np.random.default_rng(1).integers(0, CONFIG.vocab_size, (batch, PROMPT)).astype(np.int32)
    score = jax.jit(trie_log_probs, static_argnums=0)
    work = lambda: score(model.decoder, model.params, trie, tokens, np.full(batch, PROMPT, np.int32))  # noqa: E731
    jax.block_until_ready(work())
    return batch / float(np.median([seconds(work) for _ in range(repeats)]))


def renormalised(model: Model, trie: TitleTrie, batches: list[Batch], chosen: np.ndarray) -> np.ndarray:
    """log p by the rule `trie` from full sequences: at each branch on a title's way a softmax over the children,
    without our scorer."""
    head = np.asarray(head_weight(model.params, CONFIG), np.float64)
    depth = trie.node_depth
    first = np.searchsorted(trie.edge_parent, np.arange(trie.nodes + 2))
    apply = jax.jit(lambda params, *inputs: Decoder(CONFIG).apply({"params": params}, *inputs))
    log_probs, titles = [], iter(chosen)
    for b in batches:
        positions = np.broadcast_to(np.arange(b.tokens.shape[1], dtype=np.int32), b.tokens.shape)
        x_nTD = np.asarray(apply(model.params, b.tokens, positions, (np.ones_like(b.tokens),)), np.float64)
        for row in range(len(b.tokens)):
            title = next(titles)
            edge, log_p = int(trie.title_edge[title]), -np.log(trie.title_copies[title])
            while edge >= 0:
                node = trie.edge_parent[edge]
                children = np.arange(first[node], first[node + 1])
                logits = head[trie.edge_token[children]] @ x_nTD[row, PROMPT - 1 + depth[node]]
                log_p += logits[edge - first[node]] - np.logaddexp.reduce(logits)
                edge = int(trie.edge_up[edge])
            log_probs.append(log_p)
    return np.array(log_probs)


def read_titles(path: Path, count: int) -> tuple[list[str], bool]:
    """Titles of a table of items; made-up ones of like structure (brands, lines, kinds, numbers) where there is
    none."""
    if path.is_file():
        with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
            rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            return [
                " ".join(row["title"].split())[:300] for row in rows if row["title"] and row["title"].strip()
            ], False
    rng = np.random.default_rng(count)
    letters = ["ba", "ko", "ri", "ten", "lu", "mar", "sol", "vi", "do", "gra", "pel", "xo", "nia", "ster", "qui", "ham"]
    vocabulary = ["".join(rng.choice(letters, rng.integers(2, 5))) for _ in range(1500)]

    def word(size: int) -> str:
        return vocabulary[int(size * rng.random() ** 2)]

    return [f"{word(120)} {word(600)} {word(1500)} {word(1500)} {rng.integers(1, 40)}" for _ in range(count)], True


def tokenize(titles: list[str]) -> Catalogue:
    """With a byte-level BPE trained on the titles, merges inside words only."""
    with tempfile.TemporaryDirectory() as folder:
        encoder = tokenizer.train(titles, [1] * len(titles), CONFIG.vocab_size, Path(folder), across_words=False)
        return Catalogue.build(encoder, titles, "\n")


def load_torch(params: Any) -> Any:
    """The same weights in transformers, or None where torch is not installed."""
    try:
        import torch  # noqa: F401
        from transformers import AutoModelForCausalLM
    except ImportError:
        return None
    from cprec_jax.hf.save import save

    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "model", params, CONFIG, None, "benchmark")
        return AutoModelForCausalLM.from_pretrained(Path(folder) / "model").eval()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under two minutes on two cores")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(__file__).resolve().parents[2] / "shared" / "data",
        help="folder of the title tables",
    )
    parser.add_argument("--no-torch", action="store_true", help="do not compare with PyTorch")
    parser.add_argument("--only", choices=("20", "100", *CATALOGUES), help="one number of candidates or one catalogue")
    options = parser.parse_args(arguments)
    repeats, sample = (3, 16) if options.quick else (9, 64)

    decoder = Decoder(CONFIG)
    params = jax.jit(lambda: init_params(decoder, jax.random.key(0)))()
    model = Model(decoder=decoder, params=params, torch=None if options.no_torch else load_torch(params))
    print(
        f"{count_params(CONFIG) / 1e6:.1f}M parameters, {jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax "
        f"{jax.__version__}"
    )
    results = Results()
    wanted = (options.only,) if options.only else ("20", "100", *(name for name in CATALOGUES if name != LARGE))
    for count in (20, 100):
        if str(count) in wanted:
            shared_prefix(model, count, repeats, results)
    for name, (file, size) in CATALOGUES.items():
        if name not in wanted:
            continue
        titles, made_up = read_titles(options.data / file, size)
        whole_catalogue(model, name, titles, made_up, sample, min(repeats, 3) if name == LARGE else repeats, results)
    results.add(
        "max_score_difference",
        results.difference,
        "nats",
        "naive",
        f"largest difference of a score, smaller is better: {results.where}",
    )
    assert results.difference < 1e-4, f"scores differ by {results.difference} nats: {results.where}"
    results.write(options.json)


if __name__ == "__main__":
    main()
