"""Paths: any character in every path option works or is refused in one line before any work; `~` is a home; addresses
are refused."""

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cprec_jax import cli
from cprec_jax.errors import UserError
from cprec_jax.paths import bucket_or_path, local_path, work_directory
from cprec_jax.text import plain_text, tokenizer
from cprec_jax.train.checkpoint import Checkpoints
from cprec_jax.train.state import TrainState
from cprec_jax.workdir_lock import hold
from tests import road
from tests import run_jobs as jobs

EXAMPLES = 200 if os.environ.get("CPREC_FUZZ") else 20
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)
ODD = (
    "[...]",
    "a[1]b",
    "*",
    "?",
    "~",
    "~x",
    "gs:",
    "back\\slash",
    "it's",
    'a"b',
    "new\nline",
    "%20%s",
    "{a,b}",
    "a:b",
    " ",
    "\u2615",
)


def odd(test: Any) -> Any:
    for name in ODD:
        test = example(name)(test)
    return settings(max_examples=EXAMPLES)(given(NAMES)(test))


def fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


@odd
def test_a_work_directory_works_or_is_refused(tmp_path: Path, name: str) -> None:
    """What is written under it can be read again, and nothing lands beside it."""
    base = fresh(tmp_path / "base")
    try:
        path = work_directory(str(base / name))
    except UserError as error:
        assert set("[*?\\") & set(name) or name.endswith(":") or name.splitlines() != [name]
        assert len(str(error).splitlines()) == 1 and not list(base.iterdir())
        return
    state = TrainState(step=jnp.int32(3), trained={"a": jnp.arange(6.0)}, opt_state={"m": jnp.ones(2)})
    written = Checkpoints(path / "checkpoints")
    written.save(state, {"tokens": 1, "seconds": 2.0})
    written.verify(state)
    written.close()
    read = Checkpoints(path / "checkpoints", read_only=True)
    params, step, _ = read.restore_params(state.trained)
    read.close()
    assert step == 3 and params["a"].tolist() == list(range(6))
    assert [entry.name for entry in base.iterdir()] == [name]


@odd
def test_a_config_file(tmp_path: Path, name: str) -> None:
    path = fresh(tmp_path / "base") / name
    path.write_text("def get_config(arg='none'):\n    return {'name': arg}\n")
    assert cli.load_config(str(path), {}) == {"name": "none"}
    assert cli.load_config(f"{path}:small", {}) == {"name": "small"}


@odd
def test_a_tokenizer_directory(tmp_path: Path, name: str) -> None:
    from cprec_jax.hf.hub import locate

    path = fresh(tmp_path / "base") / name
    tokenizer.train(["a title\n"] * 9, [1] * 9, 290, path)
    (path / "tokenizer_config.json").unlink()  # so that transformers is asked, too
    assert tokenizer.load(locate(str(path))).size == 257 + len("a title")


@odd
def test_general_text(tmp_path: Path, name: str) -> None:
    base = fresh(tmp_path / "base") / name
    base.mkdir()
    file = f"{name[:40]}.txt"
    (base / file).write_text("Some text.")
    (base / "other.txt").write_text("Other text.")
    for spec in ({"root": str(base), "files": (file,)}, {"files": (str(base / file),)}):
        assert plain_text.find_files(plain_text.PlainTextSpec(**spec)) == [base / file]
    found = plain_text.find_files(plain_text.PlainTextSpec(root=str(base), files=("*.tx[t]",)))
    assert set(found) >= {base / "other.txt"} and set(found) <= {base / file, base / "other.txt"}


@settings(max_examples=EXAMPLES // 2)
@given(NAMES)
@example("[...]")
@example("it's")
@example("a*b?")
@example("back\\slash")
@example("%20{x}")
def test_the_files_of_a_source(tmp_path: Path, name: str) -> None:
    base = fresh(tmp_path / "base") / name
    base.mkdir()
    with gzip.open(base / f"{name[:40]}.tsv.gz", "wt", encoding="utf-8") as stream:
        stream.write(
            "user_id\titem_id\ttimestamp\n"
            + "".join(f"u{u}\ti{(u + t) % 7}\t{t}\n" for u in range(9) for t in range(6))
        )
    (base / "items.tsv").write_text("item_id\ttitle\n" + "".join(f"i{i}\tTitle {i}\n" for i in range(7)))
    source = {
        "name": "A",
        "role": "pretrain",
        "adapter": "table",
        "platform": "p",
        "interactions": f"{name[:40]}.tsv.gz",
        "items": "items.tsv",
    }
    jobs.prepare({"corpus": {"root": str(base), "sources": [source], "k_core": 0}}, tmp_path / "base" / "work")
    assert json.loads((tmp_path / "base/work/corpus/manifest.json").read_text())["n_items"] == 7


@pytest.mark.parametrize("scheme", ["gs", "s3", "hdfs", "https", "file"])
def test_addresses_are_refused_in_every_option(
    tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.py").write_text(
        f"import json\ndef get_config():\n    return json.loads({json.dumps(json.dumps(road.CONFIG))})\n"
    )
    address = f"{scheme}://bucket/x"
    for argv in (
        ["run", "--config=c.py", f"--workdir={address}"],
        ["run", "--config=c.py", f"--workdir={scheme}:/bucket/x"],
        ["run", f"--config={address}", "--workdir=w"],
        ["generate", f"--model={address}", "--prompt=a"],
        ["generate", f"--workdir={address}", "--prompt=a"],
        ["generate", f"--prompt=@{address}"],
        ["compare", address],
        ["compare", "w", f"--out={address}"],
    ):
        assert cli.main(argv) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and f"{scheme}:// is not supported here" in lines[0], lines
    for call in (
        lambda: plain_text.find_files(plain_text.PlainTextSpec(files=(address,))),
        lambda: local_path(address, "x"),
    ):
        with pytest.raises(UserError, match="is not supported here"):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["c.py"]


@pytest.mark.parametrize("job", ["run", "train"])
def test_checkpoints_lie_on_disks(tmp_path: Path, capsys: pytest.CaptureFixture[str], job: str) -> None:
    """Also those between the durable ones; docs/scaling.md says why."""
    config = tmp_path / "c.py"
    config.write_text(f"import json\ndef get_config():\n    return json.loads({json.dumps(json.dumps(road.CONFIG))})\n")
    near = "--config.train.near=gs://bucket/x"
    assert cli.main([job, f"--config={config}", f"--workdir={tmp_path / 'w'}", near]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "error: config.train.near=gs://bucket/x: gs:// is not supported here; copy or mount it, and give the path on "
        "this machine"
    )
    assert not (tmp_path / "w/corpus").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://bucket/x", "s3:// is not supported here; copy or mount it, and give the path on this machine"),
        ("gs:/bucket/x", "is no address of a bucket; write gs://BUCKET/DIRECTORY"),
        ("gs://", "is no address of a bucket; write gs://BUCKET/DIRECTORY"),
        ("gs://Bucket/x", "is no address of a bucket; write gs://BUCKET/DIRECTORY"),
        ("gs://bucket//x", "is no address of a bucket; write gs://BUCKET/DIRECTORY"),
    ],
)
def test_addresses_that_keep_no_copies(address: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        bucket_or_path(address, "config.train.copy_to")
    assert str(refused.value) == f"config.train.copy_to={address}: {message}"


def test_addresses_that_keep_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gcsfs.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for text, address in (
        ("gs://bucket", "gs://bucket"),
        ("gs://my.bucket-1/a b/c/", "gs://my.bucket-1/a b/c"),
        ("~/x", str(tmp_path / "x")),
        ("x", "x"),
    ):
        assert bucket_or_path(text, "config.train.copy_to") == address


def test_a_tilde_is_the_home_in_every_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cprec_jax.hf.hub import locate

    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    (home / "c.py").write_text(
        f"import json\ndef get_config():\n    return json.loads({json.dumps(json.dumps(road.CONFIG))})\n"
    )
    assert cli.main(["prepare", "--config=~/c.py", "--workdir=~/work"]) == 0
    assert (home / "work/corpus/manifest.json").exists()
    tokenizer.train(["a title\n"] * 9, [1] * 9, 290, home / "words")
    assert locate("~/words") == home / "words"
    (home / "text.txt").write_text("Some text.")
    assert plain_text.find_files(plain_text.PlainTextSpec(files=("~/text.txt",))) == [home / "text.txt"]
    (home / "prompts").write_text("a\n")
    cli.main(["generate", "--prompt=@~/prompts", "--workdir=~/work"])
    assert "prompts" not in capsys.readouterr().err
    with pytest.raises(UserError, match="no such user"):
        work_directory("~nobody-of-that-name/x")
    assert not list(here.iterdir())


@pytest.mark.parametrize("below", [False, True], ids=["itself", "below"])
def test_a_work_directory_that_is_a_file(tmp_path: Path, below: bool) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a directory"):
        work_directory(str(tmp_path / "file" / "x" if below else tmp_path / "file"))


def test_a_work_directory_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(UserError, match="cannot be written"):
        work_directory(str(tmp_path / "new" / "er"))
    assert not list(tmp_path.iterdir())


def test_a_link_to_nothing_and_a_name_that_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"is a link to .*nowhere, which is not there"):
        work_directory(str(tmp_path / "link"))
    for path in ("a" * 300, "a" * 300 + "/b"):
        with pytest.raises(UserError, match=r"\.\.\.: File name too long; give a shorter path"):
            work_directory(path)
        with pytest.raises(UserError, match=r"\.\.\.: File name too long; give a shorter path"):
            cli.load_config(path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file or directory"), RecursionError()], ids=["kernel", "deep"]
)
def test_a_work_directory_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What the system lets a process ask for, and then does not do: a directory below /proc, thousands below one
    another."""

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"new: cannot be made .*; choose another --workdir"), hold(tmp_path / "new"):
        pass


@pytest.mark.parametrize("name", ["a:b", "-x", "--y", "#z", "%20", "a b"])
def test_a_relative_work_directory(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow takes a:b/file for an address."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.py").write_text(
        f"import json\ndef get_config():\n    return json.loads({json.dumps(json.dumps(road.CONFIG))})\n"
    )
    assert cli.main(["prepare", "--config=c.py", f"--workdir={name}"]) == 0
    assert (tmp_path / name / "corpus/manifest.json").exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def get_config(): return None", "get_config() gives None; it must give"),
        ("def get_config(): return [1]", "get_config() gives [1]; it must give"),
        ("def get_config(): return 'text'", "get_config() gives 'text'; it must give"),
        ("def get_config(): return {1: 2}", "get_config() gives {1: 2}; it must give"),
        ("import sys\ndef get_config(): sys.exit(3)", "SystemExit: 3"),
        ("import sys\nsys.exit('no data here')", "SystemExit: no data here"),
        ("def get_config(): return get_config()", "RecursionError"),
    ],
)
def test_a_config_file_that_gives_no_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, message: str
) -> None:
    (tmp_path / "c.py").write_text(code)
    assert cli.main(["prepare", f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path / 'w'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --config=") and message in line
    assert not (tmp_path / "w").exists()
