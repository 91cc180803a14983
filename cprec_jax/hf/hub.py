"""Where a model is: a local directory, or a hub id `owner/name[@revision]`, whose files go to the cache of huggingface_hub."""

import functools
import re
from pathlib import Path

from cprec_jax.errors import UserError, one_line
from cprec_jax.paths import local_path

# Data and text only. Weights are the files that transformers reads; repositories also hold pickles, code, and copies for other programs.
PATTERNS = ("*.json", "model*.safetensors", "*.model", "vocab.txt", "merges.txt", "chat_template.jinja", "README.md", "LICENSE*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def locate(source: str) -> Path:
    """A local directory as it is; for a hub id the local copy, downloaded if need be (`PATTERNS`: no pickle, no code).

    `@revision` is a branch, tag or commit; default: the newest of the main branch. Without a network (or with HF_HUB_OFFLINE=1) what the
    cache holds is used. Raises `UserError` when there is neither such a directory nor such a model.
    """
    path = local_path(source, "model or tokenizer")
    if path.is_dir():
        return path
    if not _HUB_ID.fullmatch(source):
        raise UserError(f"{source}: no such directory, and not a hub id of the form owner/name")
    return _snapshot(source)


@functools.cache  # one answer a process: a repository that changes in the middle of a run must not mix two versions
def _snapshot(source: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")
    try:
        path = snapshot_download(name, revision=revision or None, allow_patterns=list(PATTERNS), ignore_patterns=["*/*"])
    except Exception as error:  # network, rights and missing repositories have a dozen types there
        reason = one_line(error)[:300]
        raise UserError(
            f"{source}: no such directory, and not to be had from the hub ({reason}); check the name and the network, "
            "or download it elsewhere and give its directory"
        ) from error
    return Path(path)
