"""Exact log-probabilities of a whole catalogue: one pass over the skeleton of its title trie with tree attention.

B users, P prompt length, n skeleton nodes, A ancestors of a node (itself included), E edges, N titles; H, K, G, h as in `prompt_cache`.
"""

import itertools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.evaluate.prompt_cache import PromptCache, encode_prompts, prompt_scores, two_part_softmax
from cprec_jax.evaluate.title_trie import TitleTrie
from cprec_jax.model.decoder import Decoder, head_weight

# Nodes are sorted by depth; a bucket holds those with at most so many ancestors, so padding stays small and shapes static.
BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512)


@flax.struct.dataclass
class DeviceTrie:
    """`TitleTrie` as device arrays, laid out for gathers (a scatter runs on one core of a CPU, one element after the other).

    ancestors: one int32[nodes, A] a depth bucket. siblings: one int32[branching nodes, children] a bucket of like numbers of children,
    -1 = none. edge_place int32[E]: where an edge lands when those are flattened and joined. title_path int32[N, levels]: the edges on a
    title's way, E = none.
    """

    node_token: jax.Array
    node_depth: jax.Array
    ancestors: tuple[jax.Array, ...]
    edge_parent: jax.Array
    edge_token: jax.Array
    siblings: tuple[jax.Array, ...]
    edge_place: jax.Array
    title_path: jax.Array
    title_copies: jax.Array
    root_edges: int = flax.struct.field(pytree_node=False)


def to_device(trie: TitleTrie) -> DeviceTrie:
    ends = [0, *np.searchsorted(trie.node_depth, BUCKETS, side="right").tolist()]
    assert ends[-1] == trie.nodes, "a title has over 512 tokens before its last branch"
    siblings, edge_place = _siblings(trie)
    return DeviceTrie(
        node_token=jnp.asarray(trie.node_token),
        node_depth=jnp.asarray(trie.node_depth),
        ancestors=tuple(jnp.asarray(trie.ancestors(a, b)) for a, b in itertools.pairwise(ends) if b > a),
        edge_parent=jnp.asarray(trie.edge_parent),
        edge_token=jnp.asarray(trie.edge_token),
        siblings=tuple(map(jnp.asarray, siblings)),
        edge_place=jnp.asarray(edge_place),
        title_path=jnp.asarray(_title_paths(trie)),
        title_copies=jnp.asarray(trie.title_copies),
        root_edges=int(np.count_nonzero(trie.edge_parent == 0)),
    )


def _siblings(trie: TitleTrie) -> tuple[list[np.ndarray], np.ndarray]:
    """Children of each branching node, in buckets by their number (powers of two, so at most half is padding), and each edge's place."""
    parents, first, count = np.unique(trie.edge_parent, return_index=True, return_counts=True)
    bucket = np.ceil(np.log2(np.maximum(count, 2))).astype(np.int64)
    blocks, place, start = [], np.zeros(trie.edges, np.int32), 0
    for size in np.unique(bucket):
        at = np.flatnonzero(bucket == size)
        column = np.arange(int(count[at].max()))
        block = np.where(column[None, :] < count[at, None], first[at, None] + column[None, :], -1).astype(np.int32)
        row, col = np.nonzero(block >= 0)
        place[block[row, col]] = start + row * block.shape[1] + col
        start += block.size
        blocks.append(block)
    assert len(parents) == sum(len(block) for block in blocks)
    return blocks, place


def _title_paths(trie: TitleTrie) -> np.ndarray:
    levels = int(trie.edge_level.max(initial=-1)) + 1
    path = np.full((len(trie.title_edge), levels), trie.edges, np.int32)
    at = trie.title_edge.astype(np.int64)
    for level in range(levels):
        path[at >= 0, level] = at[at >= 0]
        at = np.where(at >= 0, trie.edge_up[np.maximum(at, 0)], -1)
    return path


def _tree_attend(q_BnHh: jax.Array, k_BnKh: jax.Array, v_BnKh: jax.Array, past: Any, context: Any) -> jax.Array:
    """Every node attends to its user's prompt and to its own ancestors, in one softmax."""
    keys_BPKh, values_BPKh = past
    visible_BP, ancestors = context
    B, _, H, h = q_BnHh.shape
    K = k_BnKh.shape[2]
    outputs = []
    first = 0
    for ancestors_nA in ancestors:
        size = ancestors_nA.shape[0]
        q = (q_BnHh[:, first : first + size] * h**-0.5).reshape(B, size, K, H // K, h)
        on_prompt = prompt_scores(q, keys_BPKh, visible_BP)
        if ancestors_nA.shape[1] == 1:  # only itself: no gather
            k_up, v_up = k_BnKh[:, first : first + size, None], v_BnKh[:, first : first + size, None]
        else:
            k_up, v_up = (jnp.take(x, jnp.maximum(ancestors_nA, 0), axis=1) for x in (k_BnKh, v_BnKh))
        on_path = jnp.einsum("BnKGh,BnAKh->BKGnA", q, k_up, preferred_element_type=jnp.float32)
        on_path = jnp.where((ancestors_nA >= 0)[None, None, None], on_path, jnp.finfo(jnp.float32).min)
        p_prompt, p_path = two_part_softmax(on_prompt, on_path)
        o = jnp.einsum("BKGnP,BPKh->BnKGh", p_prompt.astype(v_BnKh.dtype), values_BPKh)
        o = o + jnp.einsum("BKGnA,BnAKh->BnKGh", p_path.astype(v_BnKh.dtype), v_up)
        outputs.append(o.reshape(B, size, H, h))
        first += size
    return jnp.concatenate(outputs, axis=1)


def _edge_logits(decoder: Decoder, params: Any, trie: DeviceTrie, cache: PromptCache) -> jax.Array:
    """float32 [B, E]: the logit of each edge's token at the node it leaves; never the whole head."""
    w_VD = head_weight(params, decoder.config).astype(cache.last_BD.dtype)
    root = trie.root_edges
    at_root = jnp.einsum("BD,ED->BE", cache.last_BD, w_VD[trie.edge_token[:root]], preferred_element_type=jnp.float32)
    n = trie.node_token.shape[0]
    if n == 0:
        return at_root
    B = cache.last_BD.shape[0]
    tokens_Bn = jnp.broadcast_to(trie.node_token, (B, n))
    positions_Bn = cache.length_B[:, None] + trie.node_depth[None, :] - 1
    tree = decoder.clone(attend=_tree_attend)
    x_BnD: Any = tree.apply({"params": params}, tokens_Bn, positions_Bn, (cache.visible_BP, trie.ancestors), (cache.keys, cache.values))
    x_BED = jnp.take(x_BnD, trie.edge_parent[root:] - 1, axis=1)
    below = jnp.einsum("BED,ED->BE", x_BED, w_VD[trie.edge_token[root:]], preferred_element_type=jnp.float32)
    return jnp.concatenate([at_root, below], axis=1)


def title_log_probs(trie: DeviceTrie, logits_BE: jax.Array, temperature: jax.Array) -> jax.Array:
    """float32 [B, N]: log-softmax over siblings, summed along each title's edges; titles that tokenise alike share evenly."""
    copies_N = jnp.log(trie.title_copies.astype(jnp.float32))
    B = logits_BE.shape[0]
    scaled_BE = logits_BE / temperature
    flat = []
    for block in trie.siblings:
        children = jnp.where(block >= 0, jnp.take(scaled_BE, jnp.maximum(block, 0), axis=1), -jnp.inf)
        flat.append(jax.nn.log_softmax(children, axis=-1).reshape(B, -1))
    none_B1 = jnp.zeros((B, 1), jnp.float32)
    if not flat:
        return none_B1 - copies_N
    edge_BE = jnp.take(jnp.concatenate(flat, axis=1), trie.edge_place, axis=1)
    padded = jnp.concatenate([edge_BE, none_B1], axis=1)
    return sum(jnp.take(padded, trie.title_path[:, level], axis=1) for level in range(trie.title_path.shape[1])) - copies_N


def trie_edge_logits(decoder: Decoder, params: Any, trie: DeviceTrie, tokens_BP: jax.Array, length_B: jax.Array) -> jax.Array:
    """Logits of all edges, float32 [B, E], for prompts int32[B, P] padded on the right. Jit it: shapes depend on B, P and the trie only."""
    return _edge_logits(decoder, params, trie, encode_prompts(decoder, params, tokens_BP, length_B))


def trie_log_probs(
    decoder: Decoder, params: Any, trie: DeviceTrie, tokens_BP: jax.Array, length_B: jax.Array, temperature: jax.Array | float = 1.0
) -> jax.Array:
    """Exact log p(title | prompt) under the `trie` rule, float32 [B, N]; each row's probabilities sum to 1."""
    logits_BE = trie_edge_logits(decoder, params, trie, tokens_BP, length_B)
    return title_log_probs(trie, logits_BE, jnp.asarray(temperature, jnp.float32))
