"""`launch.py generate`: from a run and from an exported directory; mistakes are one line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cprec_jax import cli
from cprec_jax.corpus import Corpus, user_key
from cprec_jax.jobs.making.model_source import end_ids
from cprec_jax.text import tokenizer
from data_prep.adapters.synthetic import _user_names
from tests import road
from tests import run_jobs as jobs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, exported."""
    workdir = road.make_rows(tmp_path_factory.mktemp("generate"))
    config = road.config(train={"steps": 2, "milestones": []})
    jobs.train(config, workdir)
    jobs.export(config, workdir)
    return workdir


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = cli.main(["generate", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_titles_after_a_user(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Corpus.open(workdir / "corpus")
    targets = corpus.targets("test", "Games")
    user = f"--user={targets.user[0]},{targets.user[1]}"
    out = ask(capsys, f"--workdir={workdir}", "--set=Games", user, "--config.generate.titles=1000")
    assert out.count("-- next was") == 2
    lines = [line.split(maxsplit=2) for line in out.split("-- next was")[0].splitlines() if re.match(r" +\d+  ", line)]
    titles = {corpus.items.title[item] for item in corpus.catalogue("Games")}
    seen = {corpus.items.title[item] for item in targets.items[: targets.offsets[1]]}
    hidden = seen - {corpus.items.title[targets.target[0]]} if not corpus.set_info("Games").repeats else set()
    assert [line[2] for line in lines] != sorted(line[2] for line in lines)
    assert {line[2] for line in lines} == titles - hidden
    probabilities = np.array([float(line[1]) for line in lines])
    assert np.all(np.diff(probabilities) <= 0) and 0 < probabilities.sum() < 1.01
    target = corpus.items.title[targets.target[0]]
    found = re.search(r"place (\d+) of", out)
    assert found is not None
    place = int(found[1])
    assert abs(probabilities[place - 1] - probabilities[[line[2] for line in lines].index(target)]) < 1e-3


def test_titles_by_a_beam(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = Corpus.open(workdir / "corpus").targets("test", "Games")
    asked = [f"--workdir={workdir}", "--set=Games", f"--user={targets.user[0]}", "--config.generate.titles=20"]
    exact = ask(capsys, *asked)
    wide, narrow, again = (ask(capsys, *asked, f"--config.generate.beam={width}") for width in (1000, 1, 1))
    note = "; by a beam of 1000, which may miss titles"
    assert note in wide and wide.replace(note, "") == exact
    assert narrow == again != exact
    shown = [{line for line in out.splitlines() if re.match(r" +\d+  ", line)} for out in (exact, narrow)]
    assert 0 < len(shown[1]) < len(shown[0]) == 20
    probability = [
        re.search(r"(\d\.\d{4})(?=, \d+ of the history|;|$)", out.split("-- next was")[1]) for out in (exact, narrow)
    ]
    assert probability[0] is not None and probability[1] is not None and probability[0][1] == probability[1][1], (
        "the target's is exact"
    )


def test_a_run_and_its_export_say_the_same(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Corpus.open(workdir / "corpus")
    titles = " | ".join(corpus.items.title[item] for item in corpus.catalogue("Books")[:3])
    asked = [
        "--set=Books",
        f"--history={titles} | Nothing like it",
        "--config.generate.output=text",
        "--config.generate.new_tokens=6",
    ]
    run = ask(capsys, f"--workdir={workdir}", *asked)
    exported = ask(capsys, f"--model={workdir / 'export' / 'cpt'}", *asked, "--config.text.template.header={scope}:\n")
    assert run == exported and "Nothing like it" in run and "6 tokens" in run


def test_end_tokens_are_those_of_the_base_model_where_it_said_more(tmp_path: Path) -> None:
    tokens = tmp_path / "tokenizer"
    tokenizer.train(["a title\n"] * 9, [1] * 9, 290, tokens)
    own = end_ids(tokens, tmp_path / "absent")
    assert len(own) == 1
    kept = tmp_path / "base"
    kept.mkdir()
    assert end_ids(tokens, kept) == own
    (kept / "config.json").write_text('{"eos_token_id": 5}')
    assert end_ids(tokens, kept) == (5,)
    (kept / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    assert end_ids(tokens, kept) == (5, 7)


def test_prompts_from_a_file_and_drawn_text(workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("Books:\n\nGames:\n")
    asked = [f"--workdir={workdir}", f"--prompt=@{tmp_path / 'prompts.txt'}", "--config.generate.new_tokens=6"]
    drawn = [
        ask(capsys, *asked, "--config.generate.temperature=2.0", f"--config.generate.seed={seed}") for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0].index("'Books:'") < drawn[0].index("'Games:'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give exactly one of --prompt"),
        (["--prompt=a", "--user=3"], "now: prompt, user"),
        (["--prompt="], "--prompt=: is empty"),
        (["--prompt=@/nowhere/prompts.txt"], "cannot be read"),
        (["--prompt=a", "--model=/nowhere/at all"], "/nowhere/at all"),
        (["--prompt=a", "--config.generate.temperature=-1"], "config.generate: temperature -1"),
        (["--prompt=a", "--config.generate.new_token=3"], "did you mean 'new_tokens'"),
        (["--prompt=a", "--config.generate.new_tokens=5000"], "exceed the model's context of 4096"),
        (["--history=A | B"], "--set=NAME is missing; known: Books, Games, Garden"),
        (["--history=A | | B", "--set=Games"], "an empty title"),
        (["--history=A", "--set=Gamse"], "did you mean 'Games'"),
        (["--user=abc", "--set=Games"], "no such user in the test split of Games"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", f"--workdir={workdir}", *arguments]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_without_a_run_it_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "--prompt=a"]) == 2
    assert "--workdir=DIR (its newest checkpoint) or --model=DIR" in capsys.readouterr().err
    assert cli.main(["generate", f"--workdir={tmp_path}", "--prompt=a"]) == 2
    assert "launch.py train" in capsys.readouterr().err


def test_a_title_with_a_bar_is_named_in_a_json_list_or_a_file_of_them(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = Corpus.open(workdir / "corpus")
    title = corpus.items.title[corpus.catalogue("Books")[0]]
    written = json.dumps([title, "This | That", "[A] bracket"])
    (tmp_path / "histories").write_text(f"{written}\n[A] bracket | {title}\n", encoding="utf-8")
    asked = [f"--workdir={workdir}", "--set=Books", "--config.generate.output=text", "--config.generate.new_tokens=2"]
    out = ask(capsys, *asked, f"--history={written}")
    assert out.startswith(f"Books: {written}\n")
    several = ask(capsys, *asked, f"--history=@{tmp_path / 'histories'}")
    assert several.startswith(out.splitlines()[0]) and f"Books: [A] bracket | {title}" in several
    for wrong, message in (
        ('["A", 3]', "a JSON list of texts"),
        ('["A", ', "begins as a JSON list, but is none"),
        ('["A", ""]', "an empty title"),
    ):
        assert cli.main(["generate", *asked, f"--history={wrong}"]) == 2
        assert message in capsys.readouterr().err


def test_a_user_by_raw_id_or_number(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Corpus.open(workdir / "corpus")
    targets = corpus.targets("test", "Games")
    raw = {user_key("synthetic", name): name for name in _user_names(1000)}
    user = int(targets.user[0])
    asked = [f"--workdir={workdir}", "--set=Games", "--config.generate.titles=3"]
    by_number, by_id = (ask(capsys, *asked, f"--user={name}") for name in (user, raw[user]))
    assert by_number.splitlines()[1:] == by_id.splitlines()[1:] and raw[user] in by_id.splitlines()[0]
    both = ask(capsys, *asked, f"--user={json.dumps([raw[user], str(targets.user[1])])}")
    assert both.splitlines()[1 : len(by_id.splitlines())] == by_id.splitlines()[1:]
