import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from cprec_jax.config.text import TemplateSpec
from cprec_jax.errors import UserError
from cprec_jax.text import tokenizer
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.text.template import Template

TITLES = ["Halo", "Halo 2", "Zelda", "Mario Kart 8"]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tokenizer.Tokenizer:
    return tokenizer.train([t + "\n" for t in TITLES], [1] * 4, 300, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def catalogue(tokens: tokenizer.Tokenizer) -> Catalogue:
    return Catalogue.build(tokens, TITLES, "\n")


def test_gather_concatenates_items(tokens: tokenizer.Tokenizer, catalogue: Catalogue) -> None:
    flat, offsets = catalogue.gather(np.array([2, 0, 2]))
    assert tokens.decode(flat) == "Zelda\nHalo\nZelda\n"
    assert offsets[-1] == len(flat) == 2 * catalogue.lengths[2] + catalogue.lengths[0]
    assert catalogue.gather(np.array([], np.int64))[0].size == 0


def test_a_title_with_the_end_of_item_is_refused(tokens: tokenizer.Tokenizer) -> None:
    with pytest.raises(UserError, match="end-of-item"):
        Catalogue.build(tokens, ["a\nb"], "\n")


def test_a_tokenizer_that_loses_the_end_is_refused(tmp_path: Path) -> None:
    """Splitting at white space drops the line break: "Halo" becomes a prefix of "Halo 2" and would always score
    higher."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"Halo": 0, "2": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"item 0 .* a prefix of item 1 .*Halo 2"):
        Catalogue.build(tokenizer.load(tmp_path), ["Halo", "Halo 2"], "\n")


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([[1, 9], [1, 2, 9], [9]], None),  # no last token inside
        ([[1, 9], [1, 9, 2, 9]], (0, 1)),
        ([[3, 1], [1, 2], [3, 2, 1]], None),  # last tokens inside, but no prefix
        ([[3, 1, 2], [4], [3, 1]], (2, 0)),
        ([[], [4]], (0, 1)),
        ([[4], [4]], None),  # equal, not strict: counted where they are ranked
        ([], None),
    ],
)
def test_strict_prefixes(items: list[list[int]], expected: tuple[int, int] | None) -> None:
    flat = np.array([token for item in items for token in item], np.int32)
    catalogue = Catalogue(tokens=flat, offsets=np.cumsum([0, *map(len, items)]), unknown_tokens=0)
    assert catalogue._strict_prefix(np.arange(len(items))) == expected


def test_prompt_keeps_the_most_recent_items_whole(tokens: tokenizer.Tokenizer, catalogue: Catalogue) -> None:
    template = Template(TemplateSpec(header="{scope}:\n"), tokens)
    full = template.prompt("Games", np.array([3, 1, 0]), catalogue, 1000)
    assert tokens.decode(full.tokens) == "<|endoftext|>Games:\nMario Kart 8\nHalo 2\nHalo\n" and full.dropped_items == 0
    assert full.tokens[0] == tokens.bos_id
    short = template.prompt("Games", np.array([3, 1, 0]), catalogue, len(full.tokens) - 1)
    assert tokens.decode(short.tokens) == "<|endoftext|>Games:\nHalo 2\nHalo\n" and short.dropped_items == 1
    exact = template.prompt("Games", np.array([3, 1, 0]), catalogue, len(full.tokens))
    assert exact.dropped_items == 0
    nothing = template.prompt("Games", np.array([3]), catalogue, len(template.header("Games")))
    assert nothing.dropped_items == 1 and tokens.decode(nothing.tokens).endswith("Games:\n")


def test_mixed_scope_has_its_own_words(tokens: tokenizer.Tokenizer) -> None:
    template = Template(TemplateSpec(header="In {scope}:\n", all_domains="everything"), tokens)
    assert tokens.decode(template.header(None)) == "<|endoftext|>In everything:\n"


def test_template_mistakes() -> None:
    with pytest.raises(ValueError, match="end_of_item is empty"):
        TemplateSpec(end_of_item="")
    with pytest.raises(ValueError, match="scope"):
        TemplateSpec(header="Hello {user}\n")


def test_every_shared_title_of_a_domain_is_kept_apart(shared_data: Path, shared_models: Path) -> None:
    """stories260k falls back to bytes, so it keeps any two different titles apart."""
    import gzip

    with gzip.open(shared_data / "scientific18" / "item.tsv.gz", "rt", encoding="utf-8") as stream:
        lines = stream.read().splitlines()[1:]
    titles = sorted({line.split("\t")[1] for line in lines})
    built = Catalogue.build(tokenizer.load(shared_models / "hf-stories260k"), titles, "\n")
    assert len({built.item(i).tobytes() for i in range(len(built))}) == len(titles)


def whitespace_splitter(directory: Path, vocabulary: dict[str, int]) -> tokenizer.Tokenizer:
    """Words at white space, which is dropped, and `?` for all that is unknown."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    directory.mkdir(exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    return tokenizer.load(directory)


def test_a_dropped_end_of_item_is_refused_where_no_title_begins_another(tmp_path: Path) -> None:
    splitter = whitespace_splitter(tmp_path, {"Halo": 0, "Zelda": 1, "?": 2, "END": 3})
    with pytest.raises(UserError, match=r"drops the end of item '\\n' of 2 of 2 titles \(such as 'Halo'\)"):
        Catalogue.build(splitter, ["Halo", "Zelda"], "\n")
    assert Catalogue.build(splitter, ["Halo", "Zelda"], " END ").item(1).tolist() == [1, 3]


def test_an_end_of_item_that_becomes_the_unknown_token_is_refused(tmp_path: Path) -> None:
    splitter = whitespace_splitter(tmp_path, {"Halo": 0, "Zelda": 1, "?": 2, "END": 3})
    with pytest.raises(UserError, match=r"has only its unknown token for the end of item ' STOP' of 2 of 2 titles"):
        Catalogue.build(splitter, ["Halo", "Zelda"], " STOP")


def test_an_end_of_item_that_only_some_titles_lose(tmp_path: Path) -> None:
    """A normaliser that removes a full stop and what follows it: only titles with one lose their end."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate("abcd\n")}, []))
    backend.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex(r"\.[^$]*"), "")
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"of 1 of 3 titles \(such as 'b\.c'\)"):
        Catalogue.build(tokenizer.load(tmp_path), ["a", "b.c", "d"], "\n")


def test_titles_that_are_not_told_apart_are_counted_or_refused(tmp_path: Path) -> None:
    splitter = whitespace_splitter(tmp_path, {"Halo": 0, "Zelda": 1, "?": 2, "END": 3, "Mario": 4})
    built = Catalogue.build(splitter, ["Halo", "Zelda", "Mario", "Halo Mario", "Pikmin", "Kirby", "Kirby"], " END")
    assert (built.confused_titles, built.distinct_titles, built.unknown_tokens) == (2, 6, 3)
    assert (
        built.losses.startswith("33.33% of the titles (2) have the same tokens")
        and "(3) are the unknown token" in built.losses
    )
    with pytest.raises(UserError, match="the same tokens of different titles, in 3 of 5 cases"):
        Catalogue.build(splitter, ["Halo", "Zelda", "Samus", "Pikmin", "Kirby"], " END")
    assert Catalogue.build(splitter, ["Halo", "Zelda"], " END").losses == ""


def test_only_what_the_vocabulary_makes_unknown_counts_as_unknown(tmp_path: Path) -> None:
    """SmolLM2 and GPT-2 name their end token as the unknown one, too; their vocabularies of bytes have no unknown
    text."""
    tokenizer.train(["a title\n"] * 9, [1] * 9, 290, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "unk_token": "<|endoftext|>"}))
    built = Catalogue.build(tokenizer.load(tmp_path), ["a title", "\u2615"], "<|endoftext|>")
    assert built.unknown_tokens == 0 and built.item(0)[-1] == 0
