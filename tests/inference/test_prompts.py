"""Batches of prompts: every user once, few shapes, nothing lost."""

import dataclasses

import numpy as np
import pytest

from cprec_jax.config.text import TemplateSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.inference.padding import LENGTHS
from cprec_jax.inference.prompts import Prompts, make_prompts, without_history
from cprec_jax.text import tokenizer
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.template import Template


def made(lengths: list[int]) -> Prompts:
    rng = np.random.default_rng(0)
    return Prompts(
        tokens=[rng.integers(1, 50, n).astype(np.int32) for n in lengths], users_cut=0, items_dropped=0, users_emptied=0
    )


@pytest.mark.parametrize("batch_users", [1, 4, 7, 100])
def test_every_user_is_in_one_batch_of_a_few_shapes(batch_users: int) -> None:
    prompts = made([3, 200, 64, 65, 1, 130, 300, 17, 64, 5, 90])
    seen = []
    for batch in prompts.batches(batch_users):
        assert batch.tokens.shape[0] == len(batch.lengths) == batch_users and batch.tokens.shape[1] in LENGTHS
        for row, user in enumerate(batch.users):
            assert np.array_equal(batch.tokens[row, : batch.lengths[row]], prompts.tokens[user])
            assert not batch.tokens[row, batch.lengths[row] :].any(), "padded on the right"
        assert batch.rows.tolist() == [*batch.users, *[batch.users[-1]] * (batch_users - len(batch.users))]
        assert (batch.lengths > 0).all(), "rows that fill up a batch hold a real prompt"
        seen += batch.users.tolist()
    assert sorted(seen) == list(range(11))


def test_longer_than_the_longest_shape() -> None:
    (batch,) = made([LENGTHS[-1] + 1]).batches(1)
    assert batch.tokens.shape == (1, LENGTHS[-1] + 1)


def test_the_most_recent_items_that_fit(tiny_rows) -> None:
    corpus = Corpus.open(tiny_rows / "corpus")
    words = tokenizer.load(tiny_rows / "rows" / "cpt" / "tokenizer")
    catalogue = Catalogue.build(words, corpus.items.title, "\n")
    template = Template(TemplateSpec(header="{scope}:\n"), words)
    targets = corpus.targets("test", "Books")
    whole = make_prompts(targets, "Books", catalogue, template, 10_000)
    assert whole.users_cut == whole.items_dropped == 0
    longest = max(map(len, whole.tokens))
    short = make_prompts(targets, "Books", catalogue, template, 20)
    assert short.users_cut == sum(len(t) > 20 for t in whole.tokens) > 0 and longest > 20
    header = words.decode(template.header("Books"))
    for user, (tokens, full) in enumerate(zip(short.tokens, whole.tokens, strict=True)):
        history = targets.items[targets.offsets[user] : targets.offsets[user + 1]]
        titles = "".join(corpus.items.title[i] + "\n" for i in history)
        assert words.decode(full) == header + titles
        kept = words.decode(tokens).removeprefix(header)
        assert len(tokens) <= 20 and titles.endswith(kept)
        assert kept == "" or kept.split("\n")[0] in corpus.items.title, "items are kept whole"


def test_headers_that_do_not_fit_and_prompts_of_nothing_are_refused(tiny_rows) -> None:
    corpus = Corpus.open(tiny_rows / "corpus")
    words = tokenizer.load(tiny_rows / "rows" / "cpt" / "tokenizer")
    catalogue = Catalogue.build(words, corpus.items.title, "\n")
    targets = corpus.targets("test", "Books")
    header = Template(TemplateSpec(header="{scope}, a header of many words:\n"), words)
    with pytest.raises(UserError, match="prompt_tokens: 3 does not hold the header of set Books"):
        make_prompts(targets, "Books", catalogue, header, 3)
    nothing = without_history(targets)
    assert make_prompts(nothing, "Books", catalogue, header, 100).tokens[0].tolist() == header.header("Books").tolist()
    assert words.bos_id is not None, "a header of no text is the token that begins a document"
    assert make_prompts(nothing, "Books", catalogue, Template(TemplateSpec(header=""), words), 100).tokens[
        0
    ].tolist() == [words.bos_id]
    bare = Template(TemplateSpec(header=""), dataclasses.replace(words, bos_id=None))
    with pytest.raises(UserError, match=f"the prompt of user {targets.user[0]} is empty"):
        make_prompts(nothing, "Books", catalogue, bare, 100)
