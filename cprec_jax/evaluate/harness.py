"""Job `evaluate`: every method of the config on every set, by one protocol. Writes WORKDIR/results/NAME."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

from cprec_jax import artefact
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.evaluate import methods
from cprec_jax.evaluate.metrics import per_user, summary
from cprec_jax.evaluate.models import load_model
from cprec_jax.evaluate.ranks import check_finite, rank
from cprec_jax.evaluate.sets import EvalSet, open_set
from cprec_jax.evaluate.spec import EvaluateSpec
from cprec_jax.progress import say
from cprec_jax.spec import build, nearest

PROTOCOL_VERSION = 1
MODEL_KINDS = ("untrained", "checkpoint", "hf")


def evaluate_spec(config: Mapping[str, Any]) -> EvaluateSpec:
    return build(EvaluateSpec, config.get("evaluate", {}), "config.evaluate")


def result_names(config: Mapping[str, Any]) -> list[str]:
    """The names of all results of the config, in its order."""
    return list(evaluate_spec(config).names)


def evaluate_inputs(config: Mapping[str, Any], workdir: Path, name: str) -> dict[str, Any]:
    """What one result is made from: the evaluate section without the other methods, the corpus, and the model's parameters."""
    spec = evaluate_spec(config)
    settings = {key: value for key, value in dataclasses.asdict(spec).items() if key not in ("names", "batch_users", "batch_nodes")}
    corpus = artefact.read_json(workdir / "corpus" / artefact.MANIFEST, "prepare")["corpus_hash"]
    inputs = {"job": "evaluate", "method": dataclasses.asdict(spec.names[name]), "settings": settings, "corpus": corpus, "model": None}
    if spec.names[name].kind in ("untrained", "checkpoint"):
        inputs["model"] = artefact.read_json(workdir / "runs" / "cpt" / artefact.MANIFEST, "train")["params_sha256"]
    elif spec.names[name].path is not None:
        inputs["model"] = {p.name: artefact.file_sha256(p) for p in sorted(Path(str(spec.names[name].path)).glob("*.safetensors"))}
    return inputs


def evaluate(config: Mapping[str, Any], workdir: Path, names: Sequence[str] | None = None) -> None:
    """Evaluate `names` (None: all of `config.evaluate.names`)."""
    spec = evaluate_spec(config)
    for name in names or []:
        if name not in spec.names:
            raise UserError(f"--only={name}: no such result in config.evaluate.names{nearest(name, spec.names)}")
    corpus = Corpus.open(workdir / "corpus")
    for name in spec.sets or ():
        corpus.set_info(name)
    wanted = list(spec.sets or corpus.sets)
    data = [_open(corpus, spec, name, spec.split, spec.max_users) for name in wanted]
    for one in data:
        if not len(one):
            say(f"evaluate: {one.name} has no {spec.split} users; it is left out")
    data = [one for one in data if len(one)]
    if not data:
        raise UserError(f"{corpus.path}: no set has {spec.split} users; look at t1 and t2 in its manifest.json")
    validation = {}
    if spec.rule == "trie" and spec.temperature == "validation":
        validation = {one.name: _open(corpus, spec, one.name, "valid", spec.validation_users) for one in data}
    for name in names or list(spec.names):
        _evaluate_one(name, spec, config, workdir, corpus, data, validation)


def _open(corpus: Corpus, spec: EvaluateSpec, name: str, split: Any, users: int | None) -> EvalSet:
    protocols = spec.protocols if split == spec.split else ("full",)
    return open_set(corpus, name, split, protocols, spec.mask_history == "auto", users, spec.seed)


def _evaluate_one(
    name: str,
    spec: EvaluateSpec,
    config: Mapping[str, Any],
    workdir: Path,
    corpus: Corpus,
    data: Sequence[EvalSet],
    validation: dict[str, EvalSet],
) -> None:
    started = time.monotonic()
    kind = spec.names[name].kind
    step = None
    method: methods.Method
    if kind in MODEL_KINDS:
        model = load_model(spec.names[name], config, workdir, corpus)
        step = model.step
        method = methods.TitleModel(model, spec, validation)
    else:
        simple: dict[str, type[methods.Method]] = {"random": methods.Random, "popularity": methods.Popularity, "oracle": methods.Oracle}
        method = simple[kind]()
    results: dict[str, Any] = {}
    rows: list[pa.Table] = []
    cost: dict[str, float] = {}
    for one in data:
        begun = time.monotonic()
        collected = _collect(method, one, name)
        cost[one.name] = time.monotonic() - begun
        results[one.name] = _set_results(one, collected, method.facts(), spec)
        rows.append(collected.table(one, spec.seed))
        methods.warn_cut(one, method.facts())
        full = results[one.name]["protocols"]["full"]
        say(f"evaluate: {name} on {one.name}: HR@10 {full['hr@10']:.4f}, NLL {full['nll']:.3f}, {len(one)} users in {cost[one.name]:.1f} s")
    users = sum(len(one) for one in data)
    record = {
        "name": name,
        "kind": kind,
        "step": step,
        "protocol_version": PROTOCOL_VERSION,
        "corpus_hash": corpus.hash,
        "scoring_rule": spec.rule if kind in MODEL_KINDS else kind,
        "split": spec.split,
        "seeds": [spec.seed],
        "sets": results,
        "cost": {
            "seconds": time.monotonic() - started,
            "users_per_second": users / max(sum(cost.values()), 1e-9),
            "seconds_by_set": cost,
        },
    }
    inputs = evaluate_inputs(config, workdir, name)
    with artefact.new_directory(workdir / "results" / name) as directory:
        artefact.write_json(directory / "results.json", record)
        pq.write_table(pa.concat_tables(rows), directory / "ranks.parquet")
        artefact.write_json(directory / artefact.MANIFEST, {"version": 1, "inputs_hash": artefact.fingerprint(inputs), "inputs": inputs})


@dataclass(kw_only=True)
class _Collected:
    """Ranks by protocol, NLL and what else is kept of one set's scores."""

    n_better: dict[str, np.ndarray]
    n_tied: dict[str, np.ndarray]
    n_candidates: dict[str, np.ndarray]
    nll: np.ndarray
    top: np.ndarray
    score_sum: np.ndarray
    users_done: int = 0
    has_nll: bool = True
    all_tied: bool = field(default=True)

    def table(self, data: EvalSet, seed: int) -> pa.Table:
        """`ranks.parquet` rows of this set, as in DESIGN section 2."""
        tables = []
        n = len(data)
        for protocol in self.n_better:
            tables.append(
                pa.table(
                    {
                        "set": pa.array([data.name] * n),
                        "protocol": pa.array([protocol] * n),
                        "user": pa.array(data.targets.user, pa.int64()),
                        "target": pa.array(data.targets.target, pa.int32()),
                        "n_better": pa.array(self.n_better[protocol], pa.int32()),
                        "n_tied": pa.array(self.n_tied[protocol], pa.int32()),
                        "n_candidates": pa.array(self.n_candidates[protocol], pa.int32()),
                        "nll": pa.array(self.nll, pa.float32()),
                        "seed": pa.array(np.full(n, seed), pa.int32()),
                    }
                )
            )
        return pa.concat_tables(tables)


def _collect(method: methods.Method, data: EvalSet, name: str) -> _Collected:
    n = len(data)
    protocols = ["full", *(["full_unmasked"] if data.history_masked else []), *data.candidates]
    empty = {protocol: np.zeros(n, np.int64) for protocol in protocols}
    out = _Collected(
        n_better=empty,
        n_tied={p: a.copy() for p, a in empty.items()},
        n_candidates={p: a.copy() for p, a in empty.items()},
        nll=np.zeros(n),
        top=np.zeros((n, min(10, len(data.items))), np.int64),
        score_sum=np.zeros(len(data.items)),
    )
    for batch in method.score(data):
        check_finite(batch.scores, f"{name} on {data.name}")
        target = data.target[batch.users]
        excluded = data.excluded(batch.users)
        found = {"full": rank(batch.scores, target, excluded)}
        if excluded is not None:
            found["full_unmasked"] = rank(batch.scores, target)
        for protocol, columns in data.candidates.items():
            chosen = columns[batch.users]
            scores = np.take_along_axis(batch.scores, chosen, axis=1)
            found[protocol] = rank(scores, np.argmax(chosen == target[:, None], axis=1))
        for protocol, ranks in found.items():
            out.n_better[protocol][batch.users] = ranks.n_better
            out.n_tied[protocol][batch.users] = ranks.n_tied
            out.n_candidates[protocol][batch.users] = ranks.n_candidates
        if batch.log_probs is None:
            out.has_nll = False
        else:
            out.nll[batch.users] = -batch.log_probs[np.arange(len(target)), target]
        visible = batch.scores if excluded is None else np.where(excluded, -np.inf, batch.scores)
        width = out.top.shape[1]
        out.top[batch.users] = np.argpartition(-visible, width - 1, axis=1)[:, :width]
        out.all_tied &= bool((batch.scores == batch.scores[:, :1]).all())
        out.score_sum += batch.scores.sum(axis=0, dtype=np.float64)
        out.users_done += len(batch.users)
    assert out.users_done == n, "a method must score every user once"
    return out


def _set_results(data: EvalSet, found: _Collected, facts: dict[str, Any], spec: EvaluateSpec) -> dict[str, Any]:
    nll = found.nll if found.has_nll else None
    protocols = {}
    for protocol in found.n_better:
        # The NLL is over the whole unmasked catalogue, so it stands with `full` alone.
        with_nll = nll if protocol == "full" else None
        protocols[protocol] = summary(found.n_better[protocol], found.n_tied[protocol], with_nll, spec.bootstrap, spec.seed)
    values = per_user(found.n_better["full"], found.n_tied["full"])
    if nll is not None:
        values["nll"] = nll
    slices = {
        name: {"users": int(mask.sum()), **{metric: float(value[mask].mean()) for metric, value in values.items()}}
        for name, mask in data.slices().items()
    }
    result = {
        "users": len(data),
        "items": len(data.items),
        "too_small": data.too_small,
        "history_masked": data.history_masked,
        "uniform_nll": float(np.log(len(data.items))),
        "protocols": protocols,
        "slices": slices,
        **facts,
    }
    if not found.all_tied:
        percentile = stats.rankdata(data.train_count, method="average") / len(data.train_count)
        length = [len(title) for title in data.titles]
        result["coverage@10"] = float(len(np.unique(found.top)) / len(data.items))
        result["popularity_percentile@10"] = float(percentile[found.top].mean())
        constant = len(set(length)) == 1 or np.ptp(found.score_sum) == 0
        result["score_length_correlation"] = 0.0 if constant else float(stats.spearmanr(found.score_sum, length).statistic)
    return result
