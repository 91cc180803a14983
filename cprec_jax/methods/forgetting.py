"""Forgetting: how well a model predicts a held-out general text. Compare its row before and after continual
pre-training.

W tokens of a window, D model, V vocabulary.
"""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax import artefact
from cprec_jax.errors import UserError
from cprec_jax.inference.shared_prefix import label_log_probs
from cprec_jax.model.decoder import Decoder, head_weight
from cprec_jax.text.tokenizer import Tokenizer

WINDOW = 512  # tokens, or the model's context where that is shorter
BATCH = 4


def read_text(path: Path) -> str:
    """The file as text; absent or no UTF-8: `UserError`."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config.evaluate.general_text: {path} cannot be read as UTF-8 text ({error})") from error


def general_text(decoder: Decoder, params: Any, tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    """Perplexity per token, and bits per byte (comparable between tokenizers), of a UTF-8 file in windows that do not
    overlap.

    A window's first token is not predicted, unless the tokenizer has a BOS, which then begins every window. Absent,
    damaged or too short files are a `UserError`.
    """
    text = read_text(path)
    tokens, _ = tokenizer.encode_all([text])
    width = min(WINDOW, decoder.config.max_position_embeddings)
    rows, labels, counted = _windows(tokens, tokenizer.bos_id, width)
    if not counted.any():
        raise UserError(
            f"config.evaluate.general_text: {path} has {len(tokens)} tokens; nothing can be predicted, give more text"
        )
    total = 0.0
    for first in range(0, len(rows), BATCH):
        batch = np.minimum(np.arange(first, first + BATCH), len(rows) - 1)
        keep = counted[batch] & (np.arange(first, first + BATCH) < len(rows))[:, None]
        total -= float(_log_likelihood(decoder, params, rows[batch], labels[batch], keep))
    if not math.isfinite(total):
        raise UserError(f"config.evaluate.general_text: the model's loss on {path} is {total}")
    nll = total / int(counted.sum())
    return {
        "file": path.name,
        "sha256": artefact.file_sha256(path),
        "tokens": int(counted.sum()),
        "nll": nll,
        "perplexity": math.exp(nll),
        "bits_per_byte": total / math.log(2) / len(text.encode()),
    }


def _windows(tokens: np.ndarray, bos: int | None, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs and labels int32[n, W], and which labels count, bool[n, W]."""
    step = width if bos is not None else width + 1  # without BOS a window's first token is only read
    pieces = [tokens[first : first + step] for first in range(0, len(tokens), step)]
    rows, labels = np.zeros((2, len(pieces), width), np.int32)
    counted = np.zeros(rows.shape, bool)
    for row, piece in enumerate(pieces):
        window = piece if bos is None else np.concatenate([[bos], piece])
        n = len(window) - 1
        rows[row, :n], labels[row, :n], counted[row, :n] = window[:-1], window[1:], True
    return rows, labels, counted


def _sum(decoder: Decoder, params: Any, rows_BW: jax.Array, labels_BW: jax.Array, counted_BW: jax.Array) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(rows_BW.shape[1]), rows_BW.shape)
    x_BWD: Any = decoder.apply({"params": params}, rows_BW, positions, (jnp.ones_like(rows_BW),))
    w_VD = head_weight(params, decoder.config).astype(x_BWD.dtype)
    log_probs = label_log_probs(x_BWD.reshape(-1, x_BWD.shape[-1]), w_VD, labels_BW.reshape(-1))
    return jnp.sum(jnp.where(counted_BW.reshape(-1), log_probs, 0.0))


_log_likelihood = jax.jit(_sum, static_argnums=0)
