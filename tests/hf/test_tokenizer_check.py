"""The exported tokenizer against what was trained with, token by token, through AutoTokenizer."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from cprec_jax.config.root import make_config
from cprec_jax.config.text import TemplateSpec
from cprec_jax.errors import UserError
from cprec_jax.hf.tokenizer_check import TokenizerCheck
from cprec_jax.text import tokenizer, tokenizer_files
from tests import road
from tests import run_jobs as jobs

TITLES = ["Star Wars", "Star Trek (1979)", "Caf\u00e9 \u2615", "<|endoftext|>", "a <|endoftext|> b", "  two  spaces "]


def check(directory: Path, titles: list[str] = TITLES, **template: str) -> TokenizerCheck:
    return TokenizerCheck(
        tokenizer=tokenizer.load(directory),
        template=TemplateSpec(**template),
        titles=titles,
        scopes=["Books", "all domains"],
    )


def export(source: Path, target: Path, model_type: str = "llama") -> Path:
    tokenizer_files.copy(source, target)
    (target / "config.json").write_text(json.dumps({"model_type": model_type}))
    return target


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    tokenizer.train([title + "\n" for title in TITLES], [9] * len(TITLES), 300, tmp_path / "trained")
    return tmp_path / "trained"


@pytest.mark.parametrize("end", ["\n", "<|endoftext|>", " <|endoftext|>\n"])
def test_control_tokens_in_titles_are_counted_and_compared_as_text(trained: Path, tmp_path: Path, end: str) -> None:
    checked = check(trained, [title for title in TITLES if end not in title], end_of_item=end)
    checked.run(export(trained, tmp_path / "out"))
    assert checked.titles_with_control_tokens() == (0 if end == "<|endoftext|>" else 2)


def test_a_class_that_builds_its_own_parts_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LlamaTokenizer of transformers 5 keeps a vocabulary alone: no lower case, no unknown token."""
    backend = tokenizers.Tokenizer(
        models.BPE({"?": 0, "<s>": 1, "a": 2, "b": 3, "\n": 4, "\u2581": 5}, [], unk_token="?", fuse_unk=True)
    )
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    (tmp_path / "source").mkdir()
    backend.save(str(tmp_path / "source/tokenizer.json"))
    (tmp_path / "source/tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"})
    )
    out = export(tmp_path / "source", tmp_path / "out")
    checked = check(tmp_path / "source", ["A b", "bXa"])
    checked.run(out)
    assert json.loads((out / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "LlamaTokenizer" in lines[0] and "PreTrainedTokenizerFast" in lines[0]
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(out))
    assert theirs.encode("bXa\n", add_special_tokens=False) == checked.tokenizer.encode("bXa\n").tolist()


def test_where_no_class_gives_the_tokens_it_is_an_error(trained: Path, tmp_path: Path) -> None:
    """Of model_type qwen2 transformers takes Qwen2Tokenizer whatever the files name; across words it merges nothing."""
    with pytest.raises(
        UserError, match=r"AutoTokenizer makes other tokens than the training had, for example .* of this model_type"
    ):
        check(trained).run(export(trained, tmp_path / "out", "qwen2"))


@pytest.mark.parametrize("name", ["qwen2.5", "smollm2", "llama3", "gpt2"])
def test_real_tokenizers(shared_tokenizers: Path, tmp_path: Path, name: str) -> None:
    types = {"qwen2.5": "qwen2", "smollm2": "llama", "llama3": "llama", "gpt2": "gpt2"}
    titles = [*TITLES, "<|im_start|>", "<|end_of_text|> 42", "Cafe\u0301 \ufb01"]
    checked = check(shared_tokenizers / name, titles)
    checked.run(export(shared_tokenizers / name, tmp_path / "out", types[name]))
    assert checked.titles_with_control_tokens() == {"qwen2.5": 3, "smollm2": 3, "llama3": 1, "gpt2": 2}[name]


@pytest.mark.parametrize("name", ["hf-tinystories-656k", "hf-stories260k"])
def test_real_models(shared_models: Path, tmp_path: Path, name: str) -> None:
    out = export(shared_models / name, tmp_path / "out")
    shutil.copyfile(shared_models / name / "config.json", out / "config.json")
    check(shared_models / name).run(out)


@pytest.mark.slow
def test_an_export_is_undone_when_its_tokenizer_differs(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = road.config(train={"steps": 1, "milestones": []})
    jobs.train(config, workdir)
    jobs.export(config, workdir)
    before = sorted(path.name for path in (workdir / "export").iterdir())
    assert before == ["cpt"] and (workdir / "export/cpt/tokenizer.json").exists()
    shutil.rmtree(workdir / "export/cpt")
    real = tokenizer_files.copy

    def other_ids(source: Path, target: Path) -> None:
        real(source, target)
        raw = json.loads((target / "tokenizer.json").read_text())
        raw["pre_tokenizer"]["use_regex"] = True
        (target / "tokenizer.json").write_text(json.dumps(raw))

    monkeypatch.setattr(tokenizer_files, "copy", other_ids)
    with pytest.raises(UserError, match="AutoTokenizer makes other tokens than the training had"):
        jobs.export(config, workdir)
    assert not list((workdir / "export").iterdir())


def test_the_card_says_how_titles_with_control_tokens_are_read(workdir: Path) -> None:
    from cprec_jax.report.model_card import model_card

    template = {"header": "{scope}:\n", "end_of_item": "\n", "all_domains": "all"}
    for count in (0, 3):
        card = model_card(
            make_config(road.CONFIG), workdir, {"template": template, "titles_with_control_tokens": count}
        )
        assert ("3 of the titles" in card and "split_special_tokens=True" in card) == (count == 3)
