"""Exact log-probabilities of a whole catalogue: one pass over the skeleton of its title trie with tree attention.

B users, P prompt length, n skeleton nodes, A ancestors of a node (itself included), E edges, N titles; H, K, G, h as in `prompt_cache`.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.evaluate.prompt_cache import Attended, PromptCache, attend_keys, attend_prompt, encode_prompts, merge
from cprec_jax.evaluate.title_trie import TitleTrie
from cprec_jax.evaluate.trie_groups import group_skeleton
from cprec_jax.model.decoder import Decoder, head_weight

NODE_CHUNK = 4096


@flax.struct.dataclass
class NodeGroups:
    """The arrays of `SkeletonGroups` that are cut by group."""

    token: jax.Array
    depth: jax.Array
    ancestors: tuple[jax.Array, ...]
    edge_slot: jax.Array
    edge_token: jax.Array


@flax.struct.dataclass
class DeviceTrie:
    """`TitleTrie` as device arrays, laid out for gathers (a scatter runs on one core of a CPU, one element after the other).

    groups: the skeleton (None: only the root branches). below_place: `SkeletonGroups.edge_place`. root_token int32: the tokens of the
    edges that leave the root. siblings: one
    int32[branching nodes, children] a bucket of like numbers of children, -1 = none. edge_place int32[E]: where an edge lands when those
    are flattened and joined. title_path int32[N, levels]: the edges on a title's way, E = none.
    """

    groups: NodeGroups | None
    below_place: jax.Array | None
    root_token: jax.Array
    siblings: tuple[jax.Array, ...]
    edge_place: jax.Array
    title_path: jax.Array
    title_copies: jax.Array


def to_device(trie: TitleTrie, node_chunk: int = NODE_CHUNK) -> DeviceTrie:
    """`node_chunk`: how many skeleton nodes go through the decoder at a time (memory grows with users x node_chunk)."""
    siblings, edge_place = _siblings(trie)
    groups = place = None
    if trie.nodes:
        arrays = jax.tree.map(jnp.asarray, vars(group_skeleton(trie, node_chunk)))
        place = arrays.pop("edge_place")
        groups = NodeGroups(**arrays)
    return DeviceTrie(
        groups=groups,
        below_place=place,
        root_token=jnp.asarray(trie.edge_token[trie.edge_parent == 0]),
        siblings=tuple(map(jnp.asarray, siblings)),
        edge_place=jnp.asarray(edge_place),
        title_path=jnp.asarray(_title_paths(trie)),
        title_copies=jnp.asarray(trie.title_copies),
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


def _tree_attend(
    q_BnHh: jax.Array,
    k_BnKh: jax.Array,
    v_BnKh: jax.Array,
    past: Any,
    context: Any,
    window: int | jax.Array | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Every node attends to its user's prompt and to its own ancestors, in one softmax."""
    keys_BPKh, values_BPKh = past
    length_B, position_Bn, ancestors = context
    B, n, H, h = q_BnHh.shape
    K = k_BnKh.shape[2]
    q_BnKGh = (q_BnHh * h**-0.5).reshape(B, n, K, H // K, h)
    on_prompt = attend_prompt(q_BnKGh, keys_BPKh, values_BPKh, length_B, position_Bn, window, softcap)
    paths: list[Attended] = []
    first = 0
    for ancestors_nA in ancestors:
        size, width = ancestors_nA.shape
        here = slice(first, first + size)
        first += size
        visible_nA = ancestors_nA >= 0
        if window is not None:
            visible_nA &= jnp.sum(visible_nA, axis=1, keepdims=True) - 1 - jnp.arange(width) < window
        if width == 1:  # only itself: no gather
            k_up, v_up = k_BnKh[:, here, None], v_BnKh[:, here, None]
        else:
            k_up, v_up = (jnp.take(x, jnp.maximum(ancestors_nA, 0), axis=1) for x in (k_BnKh, v_BnKh))
        paths.append(attend_keys(q_BnKGh[:, here], k_up, v_up, visible_nA[None, :, None, None], softcap, own="n"))
    on_path = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *paths)
    return merge(on_prompt, on_path).astype(v_BnKh.dtype).reshape(B, n, H, h)


def _edge_logits(decoder: Decoder, params: Any, trie: DeviceTrie, cache: PromptCache) -> jax.Array:
    """float32 [B, E]: the logit of each edge's token at the node it leaves; never the whole head."""
    w_VD = head_weight(params, decoder.config).astype(cache.last_BD.dtype)
    at_root = jnp.einsum("BD,ED->BE", cache.last_BD, w_VD[trie.root_token], preferred_element_type=jnp.float32)
    if trie.groups is None or trie.below_place is None:
        return at_root
    B = cache.last_BD.shape[0]
    tree = decoder.clone(attend=_tree_attend)

    def one_group(group: NodeGroups) -> jax.Array:
        tokens_Bn = jnp.broadcast_to(group.token, (B, *group.token.shape))
        positions_Bn = cache.length_B[:, None] + group.depth - 1
        context = (cache.length_B, positions_Bn, group.ancestors)
        x_BnD: Any = tree.apply({"params": params}, tokens_Bn, positions_Bn, context, (cache.keys, cache.values))
        x_BED = jnp.take(x_BnD, group.edge_slot, axis=1)
        return jnp.einsum("BED,ED->BE", x_BED, w_VD[group.edge_token], preferred_element_type=jnp.float32)

    if len(trie.groups.token) == 1:  # needs no loop
        found_GBE = one_group(jax.tree.map(lambda x: x[0], trie.groups))[None]
    else:
        found_GBE = jax.lax.map(one_group, trie.groups)
    below_BE = jnp.take(jnp.moveaxis(found_GBE, 1, 0).reshape(B, -1), trie.below_place, axis=1)
    return jnp.concatenate([at_root, below_BE], axis=1)


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
