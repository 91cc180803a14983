"""Hub ids, without a network: a cache laid out as huggingface_hub lays it out, and a download that is watched or
fails."""

from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import jax
import numpy as np
import pytest

from cprec_jax.errors import UserError
from cprec_jax.hf import hub
from cprec_jax.hf.load import load_params, read_config
from cprec_jax.hf.save import save
from tests.model.tiny import tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def forget():
    hub._snapshot.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The cache of a machine that once downloaded `owner/tiny` and now has no network."""
    decoder, params = tiny()
    repository = tmp_path / "hub" / "models--owner--tiny"
    save(repository / "snapshots" / COMMIT, params, decoder.config, None, "card")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return repository


@pytest.mark.parametrize("source", ["owner/tiny", f"owner/tiny@{COMMIT}", "owner/tiny@main"])
def test_offline_the_cache_answers(cache, source):
    directory = hub.locate(source)
    assert directory == cache / "snapshots" / COMMIT
    _, params = tiny()
    jax.tree.map(np.testing.assert_array_equal, load_params(directory, read_config(directory)), params)


@pytest.mark.parametrize("source", ["owner/absent", "owner/tiny@v2"])
def test_offline_and_not_in_the_cache_is_one_clear_line(cache, source):
    with pytest.raises(
        UserError, match=rf"^{source}: no such directory, and not to be had from the hub.*give its directory"
    ) as caught:
        hub.locate(source)
    assert "\n" not in str(caught.value)


def test_a_directory_comes_before_the_hub(cache, tmp_path, monkeypatch):
    (tmp_path / "owner" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.locate("owner/tiny") == Path("owner/tiny")


@pytest.mark.parametrize("source", ["/no/such/place", "no-slash", "a/b/c", "../up", "owner/"])
def test_neither_directory_nor_hub_id(source):
    with pytest.raises(UserError, match="not a hub id of the form owner/name"):
        hub.locate(source)


def test_neither_pickles_nor_code_are_asked_for(monkeypatch, tmp_path):
    arguments = {}

    def download(name, **options):
        arguments[name] = options
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.locate("owner/name@v1") == tmp_path
    options = arguments["owner/name"]
    assert options["revision"] == "v1"

    def wanted(file):
        return any(fnmatch(file, p) for p in options["allow_patterns"]) and not any(
            fnmatch(file, p) for p in options["ignore_patterns"]
        )

    for file in (
        "config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "README.md",
    ):
        assert wanted(file), file
    unwanted = (
        "pytorch_model.bin",
        "model.pt",
        "modeling_x.py",
        "consolidated.safetensors",
        "original/params.json",
        "training_args.bin",
    )
    for file in unwanted:
        assert not wanted(file), file


def test_a_failing_network_is_one_line(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"owner/name.*no route to host"):
        hub.locate("owner/name")


def test_a_name_with_a_line_break_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^a\\nb: no such directory"):
        hub.locate("a\nb")
