"""The small files of a base model, kept with the run: an export needs them, and the base model may be gone by then."""

import shutil
from pathlib import Path

from cprec_jax.artefact import new_directory, write_json
from cprec_jax.errors import UserError
from cprec_jax.hf.adapter import model_directory, tokenizer_directory
from cprec_jax.hf.hub import locate
from cprec_jax.hf.save import LICENCES
from cprec_jax.json_object import read_object
from cprec_jax.text import tokenizer, tokenizer_files

DIRECTORY = "base"  # inside the run
SOURCE = "source.json"
CARD = ("README.md", *LICENCES)
GENERATION = ("config.json", "generation_config.json")  # token ids: they mean nothing with another tokenizer


def keep(init_from: str, tokenizer_dir: Path, target: Path) -> None:
    """Copy card and licence of the base model to the directory `target`; with the base model's tokenizer also its token
    ids.

    `tokenizer_dir` holds the run's tokenizer: the base model's, perhaps with new tokens, or quite another.
    """
    located = locate(init_from)
    source = model_directory(located)
    names = CARD + (GENERATION if extends(tokenizer_dir, located) else ())
    with new_directory(target) as temporary:
        write_json(temporary / SOURCE, {"init_from": init_from, "from_hub": not Path(init_from).expanduser().is_dir()})
        for name in names:
            if (source / name).exists():
                shutil.copyfile(source / name, temporary / name)


def hub_name(kept: Path) -> str | None:
    """owner/name of the base model whose files `keep` put into `kept`, where it came from the hub."""
    record = read_object(kept / SOURCE) if (kept / SOURCE).exists() else {}
    return record["init_from"].partition("@")[0] if record.get("from_hub") else None


def extends(larger: Path, smaller: Path) -> bool:
    """Whether every token of the tokenizer in `smaller` has the same id in `larger`; False where `smaller` holds none
    that loads."""
    smaller = tokenizer_directory(smaller)
    if not tokenizer_files.has_tokenizer(smaller):
        return False
    larger_ids = tokenizer.load(larger).backend.get_vocab(with_added_tokens=True)
    try:
        smaller_ids = tokenizer.load(smaller).backend.get_vocab(with_added_tokens=True)
    except UserError:  # of no use here, so the run's own is another one
        return False
    return smaller_ids.items() <= larger_ids.items()
