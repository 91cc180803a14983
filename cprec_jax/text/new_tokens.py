"""New tokens for a tokenizer, for example a marker for each domain: each is one token wherever its text stands."""

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from cprec_jax.errors import UserError
from cprec_jax.text import tokenizer, tokenizer_files

SCOPE = "{scope}"


def texts(spec: Sequence[str], scopes: Sequence[str]) -> list[str]:
    """`config.text.new_tokens` written out: an entry with `{scope}` stands for one token a scope. No token twice."""
    written = [entry.replace(SCOPE, scope) for entry in spec for scope in (scopes if SCOPE in entry else [""])]
    return list(dict.fromkeys(written))


def add(directory: Path, wanted: Sequence[str]) -> tuple[tokenizer.Tokenizer, dict[str, int]]:
    """Add tokens to the tokenizer in `directory`, in place. Returns it, and the ids of those that are really new.

    What is one token already stays as it is. New ids follow the largest id there is. Raises `UserError` where they
    cannot.
    """
    before = tokenizer.load(directory)
    size = before.size
    known = {text for text in wanted if before.backend.token_to_id(text) is not None}
    missing = [text for text in wanted if text not in known or len(before.encode(text)) != 1]
    if not missing:
        return before, {}
    path = directory / "tokenizer.json"
    # read again where possible: `load` switches off padding and truncation, which other programs may rely on
    backend = tokenizers.Tokenizer.from_file(str(path)) if path.exists() else before.backend
    backend.add_tokens([tokenizers.AddedToken(text, normalized=False, special=False) for text in missing])
    backend.save(str(path))
    after = tokenizer.load(directory)
    ids = {text: int(after.encode(text)[0]) for text in missing if len(after.encode(text)) == 1}
    new = {text: index for text, index in ids.items() if text not in known}
    if len(ids) != len(missing) or sorted(new.values()) != list(range(size, size + len(new))):
        raise UserError(
            f"config.text.new_tokens: {', '.join(missing[:5])} cannot be added to this tokenizer (its ids have gaps?)"
        )
    _register(directory, ids)
    return after, new


def _register(directory: Path, ids: dict[str, int]) -> None:
    """Tell the other files that list added tokens, where they do: a reader may trust them more than tokenizer.json."""
    listed = tokenizer_files.read_object(directory / tokenizer_files.SETTINGS).get("added_tokens_decoder")
    if isinstance(listed, dict):
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False}
        listed |= {str(index): {"content": text, **flags} for text, index in ids.items()}
        tokenizer_files.write_settings(directory, {"added_tokens_decoder": listed})
    path = directory / "added_tokens.json"
    if path.exists():
        known = tokenizer_files.read_object(path)
        path.write_text(json.dumps(known | ids, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
