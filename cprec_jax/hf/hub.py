"""Where a model is: a local directory, or a hub id `owner/name[@revision]`, whose files go to the cache of
huggingface_hub."""

import functools
import re
from pathlib import Path

from cprec_jax.errors import UserError, one_line, shown
from cprec_jax.paths import local_path

# Data and text only. Weights are the files that transformers reads; repositories also hold pickles, code, and copies
# for other programs.
PATTERNS = (
    "*.json",
    "model*.safetensors",
    "*.model",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "README.md",
    "LICENSE*",
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def locate(source: str) -> Path:
    """A local directory as it is; for a hub id the local copy, downloaded if need be (`PATTERNS`: no pickle, no code).

    `@revision` is a branch, tag or commit; default: the newest of the main branch. Without a network (or with
    HF_HUB_OFFLINE=1) what the cache holds is used. Raises `UserError` when there is neither such a directory nor such a
    model.
    """
    return local_path(source, "model or tokenizer") if is_directory(source) else _snapshot(source)


def is_directory(source: str) -> bool:
    """Whether a model is a directory of this machine. False for a hub id; what is neither is a `UserError`."""
    if local_path(source, "model or tokenizer").is_dir():
        return True
    if not _HUB_ID.fullmatch(source):
        raise UserError(f"{shown(source)}: no such directory, and not a hub id of the form owner/name")
    return False


@functools.cache
def identity(source: str) -> str:
    """`owner/name@commit` of a hub id, from the cache or for the price of its config.json."""
    return f"{source.partition('@')[0]}@{config_file(source).parent.name}"


@functools.cache
def config_file(source: str) -> Path:
    """config.json of a hub id, from the cache where it is there; of its repository nothing else is fetched."""
    from huggingface_hub import hf_hub_download

    name, _, revision = source.partition("@")
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision or None))
    except Exception as error:  # network, rights and missing repositories have a dozen types there
        raise _not_to_be_had(source, error) from error


def _not_to_be_had(source: str, error: Exception) -> UserError:
    return UserError(
        f"{source}: no such directory, and not to be had from the hub ({one_line(error)[:300]}); check the name and "
        "the network, "
        "or download it elsewhere and give its directory"
    )


@functools.cache  # one answer per process: a repository that changes in the middle of a run must not mix two versions
def _snapshot(source: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")
    try:
        path = snapshot_download(
            name, revision=revision or None, allow_patterns=list(PATTERNS), ignore_patterns=["*/*"]
        )
    except Exception as error:  # network, rights and missing repositories have a dozen types there
        raise _not_to_be_had(source, error) from error
    return Path(path)
