"""The files of a tokenizer as others publish them: read as transformers reads them, and copied so that the copy alone
says everything.

`tokenizer.json` is the whole tokenizer and is taken as it is. Every other form (`vocab.json` and `merges.txt`,
`tokenizer.model`, ...) means something only together with the class that transformers chooses for it, so that class
reads it, and it becomes a `tokenizer.json`.
"""

import json
import logging
import os
import shutil
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from cprec_jax import json_object
from cprec_jax.errors import UserError, one_line
from cprec_jax.progress import say

WHOLE, SETTINGS, NAMES = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
VOCABULARIES = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
FILES = (WHOLE, SETTINGS, NAMES, "added_tokens.json", "merges.txt", "chat_template.jinja", *VOCABULARIES)
SPECIAL = ("bos_token", "eos_token", "pad_token")
_named_gpt2: set[Path] = set()


def has_tokenizer(directory: Path) -> bool:
    """Whether the directory holds the vocabulary of a tokenizer in some form."""
    return any((directory / name).exists() for name in (WHOLE, *VOCABULARIES))


def input_files(directory: Path) -> list[Path]:
    """The files that decide what the tokenizer of `directory` makes of a text: also config.json, where it names the
    class."""
    names = (
        FILES
        if (directory / WHOLE).exists() or _settings(directory).get("tokenizer_class")
        else (*FILES, "config.json")
    )
    return [directory / name for name in names if (directory / name).exists()]


def transformers_tokenizer(directory: Path) -> Any:
    """What `AutoTokenizer` makes of a directory. No remote code. Raises `UserError` where it makes nothing of it.

    `vocab.json` and `merges.txt` of which neither a `tokenizer_class` nor a config.json says whose they are it refuses;
    they are read as GPT-2's, which that pair of files was made for, and a line says so.
    """
    _quiet()
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(
            str(directory.absolute()), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the libraries raise bare Exception and many others for broken files
        if (loaded := _gpt2(directory)) is None:
            raise UserError(f"{directory}: not a usable tokenizer ({_reason(directory, error)})") from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{directory}: {type(loaded).__name__} of transformers has no tokenizer.json form; use a tokenizer that "
            "has one"
        )
    if not set(backend.get_vocab(with_added_tokens=True)) - set(
        loaded.all_special_tokens
    ):  # a class with none of its files
        raise UserError(
            f"{directory}: {type(loaded).__name__} of transformers finds no vocabulary in it; are its files complete?"
        )
    return loaded


def special_tokens(directory: Path, names: Sequence[str] = SPECIAL) -> dict[str, str | None]:
    """The texts of these special tokens (None: has none) as `AutoTokenizer` has them: by the files, else by the class
    it chooses."""
    known = _given(directory)
    if any(name not in known for name in names):
        try:
            loaded = transformers_tokenizer(directory)
        except UserError:  # of a tokenizer.json whose class would be remote code: nothing else names one
            loaded = None
        known = {name: getattr(loaded, name, None) for name in names} | known
    return {name: known[name] for name in names}


def copy(source: Path, target: Path) -> None:
    """Copy the tokenizer of a Hugging Face directory to another: `tokenizer.json` whatever it was, and special tokens
    by name.

    What only config.json or the class that it names says would be lost in a directory without it, so it is written
    down.
    """
    target.mkdir(parents=True, exist_ok=True)
    if not (source / WHOLE).exists():
        transformers_tokenizer(source).save_pretrained(str(target))
    else:
        for name in FILES:
            if (source / name).exists():
                shutil.copyfile(source / name, target / name)
    known = _given(target)
    missing = [name for name in SPECIAL if name not in known]
    if missing:
        ids, alone = token_ids(target), special_tokens(target, missing)
        # a token that the class names and the vocabulary lacks would be added with an id of its own
        texts = {name: text if text in ids else None for name, text in special_tokens(source, missing).items()}
        if changed := {name: text for name, text in texts.items() if alone[name] != text}:
            write_settings(target, changed)


def token_ids(directory: Path) -> dict[str, int]:
    """Token -> id, from the `tokenizer.json` of a directory. Damaged: `UserError`."""
    path = directory / WHOLE
    content = read_object(path)
    try:
        vocabulary = content["model"].get("vocab", ())
        ids = (
            dict(vocabulary)
            if isinstance(vocabulary, dict)
            else {entry[0]: index for index, entry in enumerate(vocabulary)}
        )
        ids |= {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
        if wrong := [text for text, index in ids.items() if not isinstance(index, int)]:
            raise UserError(f"{path}: not a usable tokenizer (the id of {wrong[0]!r} is no number)")
        return ids
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: not a usable tokenizer ({one_line(error)})") from error


def check_settings(directory: Path, tokens: Container[str]) -> None:
    """What `AutoTokenizer` would make of the settings beside a tokenizer.json with these tokens, looked at before
    anything is trained.

    A class that is no name, and a BOS that is no token, to which transformers gives an id of its own, are a
    `UserError`.
    """
    named = _settings(directory).get("tokenizer_class")
    if named is not None and not isinstance(named, str):
        raise UserError(
            f"{directory / SETTINGS}: tokenizer_class = {named!r} is no name of a class; get the tokenizer again"
        )
    bos = _given(directory).get("bos_token")
    if bos is not None and bos not in tokens:
        raise UserError(
            f"{directory}: its bos_token {bos!r} is no token of {WHOLE}, and transformers would add it with an id of "
            "its own; name one "
            f"that is, or none (null), in {SETTINGS}"
        )


def write_settings(directory: Path, changes: dict[str, Any]) -> None:
    """Change keys of tokenizer_config.json."""
    text = json.dumps(_settings(directory) | changes, indent=2, ensure_ascii=False) + "\n"
    (directory / SETTINGS).write_text(text, encoding="utf-8")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is absent. Damaged: `UserError`."""
    return json_object.read_object(path, "get the tokenizer again") if path.exists() else {}


def _settings(directory: Path) -> dict[str, Any]:
    return read_object(directory / SETTINGS)


def _given(directory: Path) -> dict[str, str | None]:
    """The special tokens that the files name, in the order of transformers: without a list of added tokens
    special_tokens_map.json wins."""
    settings = _settings(directory)
    if "added_tokens_decoder" not in settings:
        settings = settings | read_object(directory / NAMES)
    texts = {
        name: value.get("content") if isinstance(value := settings[name], dict) else value
        for name in SPECIAL
        if name in settings
    }
    return {name: text if isinstance(text, str) else None for name, text in texts.items()}


def _gpt2(directory: Path) -> Any:
    """GPT-2's tokenizer, where nothing says that the files are another's; None otherwise."""
    if not all((directory / name).exists() for name in ("vocab.json", "merges.txt")):
        return None
    if (directory / "config.json").exists() or {"tokenizer_class", "auto_map"} & _settings(directory).keys():
        return None
    from transformers import GPT2Tokenizer

    try:
        vocabulary = read_object(directory / "vocab.json")
        # the end token that the class assumes, but none that these files do not have
        assumed: dict[str, Any] = (
            {} if "<|endoftext|>" in vocabulary else dict.fromkeys(("bos_token", "eos_token", "unk_token"))
        )
        loaded = GPT2Tokenizer.from_pretrained(str(directory.absolute()), local_files_only=True, **assumed)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{directory}: not a usable tokenizer ({one_line(error)[:200]})") from error
    if directory not in _named_gpt2:
        _named_gpt2.add(directory)
        say(
            f"{directory}: neither a tokenizer_class nor a config.json says whose vocab.json and merges.txt these "
            "are; they are read as "
            "GPT-2's (name the class in tokenizer_config.json if they are not)"
        )
    return loaded


def _reason(directory: Path, error: Exception) -> str:
    text = one_line(error)
    if "instantiate the backend tokenizer" not in text and "tiktoken" not in text:
        return text[:200]
    held = [name for name in (WHOLE, *VOCABULARIES) if (directory / name).exists()]
    if not held:
        return f"it holds none of {', '.join((WHOLE, *VOCABULARIES))}"
    named = _settings(directory).get("tokenizer_class") or read_object(directory / "config.json").get("model_type")
    whose = f"as a tokenizer of {named!r}" if named else "without a class that names whose it is"
    model = " (damaged, or of tiktoken)" if any(name.endswith(".model") for name in held) else ""
    return (
        f"{' and '.join(held)} cannot be read {whose}{model}; write its tokenizer.json with transformers' "
        "save_pretrained"
    )


def _quiet() -> None:
    """Its notes on PyTorch and on classes are for other programs; what matters here becomes an error."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
