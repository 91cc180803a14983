"""Exact log-probabilities of a whole catalogue: the skeleton of its title trie in blocks with tree attention.

B users, P prompt length, c blocks of M rows together (n = c * M), Q rows of a block whose children are scored, X
edges of a block, E edges, N titles; H, K, G, h as in `prompt_cache`.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cprec_jax.inference.layerwise import through_layers
from cprec_jax.inference.prompt_cache import PromptCache, attend_prompt, encode_prompts
from cprec_jax.inference.trie.blocks import ROWS, cut_skeleton
from cprec_jax.inference.trie.trie import TitleTrie
from cprec_jax.model.decoder import Decoder, head_weight
from cprec_jax.model.partial_attention import attend_keys, by_head, by_position, join_rows, merge

NODE_CHUNK = 1024


@flax.struct.dataclass
class NodeBlocks:
    """Arrays of `SkeletonBlocks`, cut by block: [chunks, c, ...] for a whole skeleton, [c, ...] for a chunk of it."""

    token: jax.Array
    depth: jax.Array
    visible: jax.Array
    query_row: jax.Array
    edge_query: jax.Array
    edge_token: jax.Array


@flax.struct.dataclass
class DeviceTrie:
    """`TitleTrie` as device arrays, laid out for gathers (a scatter runs on one core of a CPU, one element after the
    other).

    blocks: the skeleton (None: only the root branches). below_position: `SkeletonBlocks.edge_position`. root_token
    int32: the tokens of the edges that leave the root. siblings: one int32[branching nodes, children] per bucket of
    like numbers of children, -1 = none. edge_position int32[E]: where an edge lies when those are flattened and joined.
    title_path int32[N, levels]: the edges on a title's way, E = none. title_copies: as in `TitleTrie`.
    """

    blocks: NodeBlocks | None
    below_position: jax.Array | None
    root_token: jax.Array
    siblings: tuple[jax.Array, ...]
    edge_position: jax.Array
    title_path: jax.Array
    title_copies: jax.Array

    def chunks(self) -> list[NodeBlocks]:
        """The blocks that go through the model together."""
        if self.blocks is None:
            return []
        blocks = self.blocks
        return [jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(len(blocks.token))]


def to_device(trie: TitleTrie, node_chunk: int = NODE_CHUNK) -> DeviceTrie:
    """`node_chunk`: how many skeleton nodes of a user go through the decoder at a time (memory grows with users x
    node_chunk)."""
    siblings, edge_position = _siblings(trie)
    blocks = below_position = None
    if trie.nodes:
        cut = vars(cut_skeleton(trie, min(ROWS, node_chunk)))
        below_position = jnp.asarray(cut.pop("edge_position"))
        n, rows = cut["token"].shape
        # a power of two for small catalogues, so that few shapes are compiled
        size = min(max(1, node_chunk // rows), 1 << int(n - 1).bit_length())
        blocks = NodeBlocks(**{name: jnp.asarray(_chunked(x, size)) for name, x in cut.items()})
    return DeviceTrie(
        blocks=blocks,
        below_position=below_position,
        root_token=jnp.asarray(trie.edge_token[trie.edge_parent == 0]),
        siblings=tuple(map(jnp.asarray, siblings)),
        edge_position=jnp.asarray(edge_position),
        title_path=jnp.asarray(_title_paths(trie)),
        title_copies=jnp.asarray(trie.title_copies),
    )


def _siblings(trie: TitleTrie) -> tuple[list[np.ndarray], np.ndarray]:
    """The children of each branching node, in buckets by their number (powers of two, so at most half is padding), and
    where each edge lies in them."""
    parents, first, count = np.unique(trie.edge_parent, return_index=True, return_counts=True)
    bucket = np.ceil(np.log2(np.maximum(count, 2))).astype(np.int64)
    blocks, edge_position, start = [], np.zeros(trie.edges, np.int32), 0
    for size in np.unique(bucket):
        nodes = np.flatnonzero(bucket == size)
        child = np.arange(int(count[nodes].max()))[None, :]
        block = np.where(child < count[nodes, None], first[nodes, None] + child, -1).astype(np.int32)
        row, column = np.nonzero(block >= 0)
        edge_position[block[row, column]] = start + row * block.shape[1] + column
        start += block.size
        blocks.append(block)
    assert len(parents) == sum(len(block) for block in blocks)
    return blocks, edge_position


def _chunked(blocks: np.ndarray, size: int) -> np.ndarray:
    """[n, ...] -> [chunks, size, ...]; the last chunk is filled up with copies of the last block, which nobody
    reads."""
    index = np.minimum(np.arange(-(-len(blocks) // size) * size), len(blocks) - 1)
    return blocks[index].reshape(-1, size, *blocks.shape[1:])


def _title_paths(trie: TitleTrie) -> np.ndarray:
    ways = trie.ways(np.arange(len(trie.title_edge)))
    return np.where(ways >= 0, ways, trie.edges).astype(np.int32)


def _tree_attend(
    q_bnHh: jax.Array,
    k_bnKh: jax.Array,
    v_bnKh: jax.Array,
    past: tuple[jax.Array, ...],
    context: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    window: int | jax.Array | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Every node attends to its user's prompt and, in its block, to itself and its ancestors, in one softmax.

    The leading axis of the nodes is 1 as long as all users share them (in the first layer), else B.
    """
    keys_BPKh, values_BPKh = past[:2]
    if len(past) > 2:  # the queries are some of the nodes; these are the keys of all
        k_bnKh, v_bnKh = past[2:]
    length_B, depth_cq, depth_cM, visible_cqM = context
    (b, _, H, h), K = q_bnHh.shape, k_bnKh.shape[2]
    B, c = keys_BPKh.shape[0], len(depth_cq)
    after_Bn = jnp.broadcast_to(depth_cq.reshape(-1) - 1, (B, depth_cq.size))
    q_BKGnh = jnp.broadcast_to(by_head(q_bnHh, K), (B, K, H // K, depth_cq.size, h))
    on_prompt = attend_prompt(q_BKGnh, keys_BPKh, values_BPKh, length_B, after_Bn, window, softcap)
    if window is not None:
        visible_cqM &= depth_cq[:, :, None] - depth_cM[:, None] < window
    q, k, v = (x.reshape(b * c, -1, *x.shape[2:]) for x in (q_bnHh, k_bnKh, v_bnKh))
    visible = jnp.broadcast_to(visible_cqM, (b, *visible_cqM.shape)).reshape(b * c, *visible_cqM.shape[1:])
    on_path = join_rows(attend_keys(by_head(q, K), k, v, visible, softcap), b)
    return by_position(merge(on_prompt, on_path)).astype(v_bnKh.dtype)


def block_edge_logits(decoder: Decoder, params: Any, cache: PromptCache, blocks: NodeBlocks) -> jax.Array:
    """float32 [B, c, X]: the logit of the token of each edge that leaves nodes of the blocks [c, ...]; never the whole
    head."""
    w_VD = head_weight(params, decoder.config).astype(cache.last_BD.dtype)
    c, Q = blocks.query_row.shape
    offset = jnp.arange(c)[:, None] * blocks.token.shape[1]
    query_depth = jnp.take_along_axis(blocks.depth, blocks.query_row, axis=1)
    query_visible = jnp.take_along_axis(blocks.visible, blocks.query_row[:, :, None], axis=1)
    x_BqD = through_layers(
        decoder.clone(attend=_tree_attend),
        params,
        blocks.token.reshape(1, -1),
        blocks.depth.reshape(1, -1) - 1,
        (cache.length_B, blocks.depth, blocks.depth, blocks.visible),
        (cache.keys, cache.values),
        (offset + blocks.query_row).reshape(-1),
        (cache.length_B, query_depth, blocks.depth, query_visible),
    )
    # All products of a block's queries and children, of which one a child is wanted, are cheaper than a gather of the
    # queries.
    x_BcQD = x_BqD.reshape(-1, c, Q, x_BqD.shape[-1])
    all_BcQX = jnp.einsum("BcQD,cXD->BcQX", x_BcQD, w_VD[blocks.edge_token], preferred_element_type=jnp.float32)
    picked = jnp.broadcast_to(blocks.edge_query[:, None], (len(x_BcQD), c, 1, blocks.edge_query.shape[1]))
    return jnp.take_along_axis(all_BcQX, picked, axis=2)[:, :, 0]


def root_edge_logits(decoder: Decoder, params: Any, root_token_E: jax.Array, cache: PromptCache) -> jax.Array:
    """float32 [B, edges of the root]."""
    w_VD = head_weight(params, decoder.config).astype(cache.last_BD.dtype)
    return jnp.einsum("BD,ED->BE", cache.last_BD, w_VD[root_token_E], preferred_element_type=jnp.float32)


def join_edges(below_position: jax.Array | None, root_BE: jax.Array, chunks: Sequence[jax.Array]) -> jax.Array:
    """float32 [B, E] in the order of the trie, from the logits at the root and those of the chunks, [B, c, X] each."""
    if below_position is None:
        return root_BE
    flat_BE = jnp.concatenate([x.reshape(len(root_BE), -1) for x in chunks], axis=1)
    return jnp.concatenate([root_BE, jnp.take(flat_BE, below_position, axis=1)], axis=1)


def title_log_probs(trie: DeviceTrie, logits_BE: jax.Array, temperature: jax.Array) -> jax.Array:
    """float32 [B, N]: log-softmax over siblings, summed along each title's edges; titles that tokenise alike share
    evenly."""
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
    edge_BE = jnp.take(jnp.concatenate(flat, axis=1), trie.edge_position, axis=1)
    padded = jnp.concatenate([edge_BE, none_B1], axis=1)
    return (
        sum(jnp.take(padded, trie.title_path[:, level], axis=1) for level in range(trie.title_path.shape[1])) - copies_N
    )


def encode_for_trie(decoder: Decoder, params: Any, tokens_BP: jax.Array, length_B: jax.Array) -> PromptCache:
    """The cache of prompts int32[B, P], padded on the right, for the nodes of a trie: a title starts at position 0."""
    return encode_prompts(decoder, params, tokens_BP, length_B, from_end=True)


def trie_edge_logits(
    decoder: Decoder, params: Any, trie: DeviceTrie, tokens_BP: jax.Array, length_B: jax.Array
) -> jax.Array:
    """Logits of all edges, float32 [B, E], for prompts int32[B, P] padded on the right, as one function to be jitted.

    Shapes depend on B, P and the trie only. Calling its parts for each of `DeviceTrie.chunks` compiles once for all
    catalogues.
    """
    cache = encode_for_trie(decoder, params, tokens_BP, length_B)
    chunks: list[jax.Array] = []
    if trie.blocks is not None:
        chunks_GBcX = jax.lax.map(lambda blocks: block_edge_logits(decoder, params, cache, blocks), trie.blocks)
        chunks = [jnp.moveaxis(chunks_GBcX, 1, 0)]
    return join_edges(trie.below_position, root_edge_logits(decoder, params, trie.root_token, cache), chunks)


def trie_log_probs(
    decoder: Decoder,
    params: Any,
    trie: DeviceTrie,
    tokens_BP: jax.Array,
    length_B: jax.Array,
    temperature: jax.Array | float = 1.0,
) -> jax.Array:
    """Exact log p(title | prompt) under the `trie` rule, float32 [B, N]; each row's probabilities sum to 1."""
    logits_BE = trie_edge_logits(decoder, params, trie, tokens_BP, length_B)
    return title_log_probs(trie, logits_BE, jnp.asarray(temperature, jnp.float32))
