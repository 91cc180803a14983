"""The work directory as a graph of artefacts: what each is made from, whether it still is what the config means, and
why not.

An artefact is current when its manifest records just what it would be made from now: the version of its kind, the
settings that affect it (compared one by one, `config/affects.py`), the content of outside files, and the content of the
artefacts before it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cprec_jax.artefact import MADE_FROM, MANIFEST, fingerprint, read_manifest
from cprec_jax.config.affects import Settings
from cprec_jax.config.build import nearest
from cprec_jax.errors import UserError
from cprec_jax.file_hashes import FileHashes

States = Literal["current", "missing", "out of date", "waits", "pruned"]


@dataclass(frozen=True, kw_only=True)
class State:
    """What an artefact is, and why, in one line. `changed`: what it was made from and is no longer so; nothing where it
    is only damaged."""

    word: States
    reason: str = ""
    changed: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether what is made from it may go by its manifest."""
        return self.word in ("current", "pruned")


@dataclass(frozen=True, kw_only=True, eq=False)
class Artefact:
    """A directory that one job makes.

    Attributes:
      name: as `status` prints it and `--only` takes it.
      version: raised by a change of the code that changes what is made.
      inputs: the artefacts whose files it is made from. What counts of each is its `content`.
      shows: artefacts that it waits for, but can do without: it says what there is.
      settings: what it takes from the config.
      files: outside files by the name that messages use; they count by their content.
      facts: anything else that it is made from, as JSON.
      content: what of its manifest counts for whatever is made from it.
      record: the file that says what it is made from, already while it is not finished.
      progress: how far an unfinished one has come, in words.
      always: `run` makes it even when it is current, from manifests and results alone: nothing pruned is made again for
      it.
      given: the config does not say how it is made, so it is taken as it is.
      prunable: whether its files may be deleted to save space until something needs them. The report reads results and
        makes nothing again, so a result that lacks a file is made again.
    """

    name: str
    path: Path
    job: str
    version: int = 1
    inputs: tuple["Artefact", ...] = ()
    shows: tuple["Artefact", ...] = ()
    settings: Callable[[], Settings]
    files: Callable[[], Mapping[str, Path]] = dict
    facts: Callable[[], Mapping[str, Any]] = dict
    content: Callable[[Mapping[str, Any]], Any] = lambda manifest: manifest.get("inputs_hash")
    record: str = MANIFEST
    progress: Callable[[], str] = str
    always: bool = False
    given: bool = False
    prunable: bool = True


class Graph:
    """All artefacts of a config, inputs before what is made from them."""

    def __init__(self, workdir: Path, artefacts: Sequence[Artefact]):
        self.artefacts = tuple(artefacts)
        self._hashes = FileHashes(workdir)
        self._states: dict[str, State] = {}

    def of_job(self, job: str) -> list[Artefact]:
        return [artefact for artefact in self.artefacts if artefact.job == job]

    def select(self, names: Sequence[str] | None) -> list[Artefact]:
        """Those that are named, and all that they are made from; None: all. An unknown name is a `UserError`."""
        if names is None:
            return list(self.artefacts)
        known = {artefact.name: artefact for artefact in self.artefacts}
        wanted: set[str] = set()
        for name in names:
            if name not in known:
                raise UserError(f"--only={name}: no such artefact{nearest(name, known)}")
            wanted |= {artefact.name for artefact in with_ancestors(known[name])}
        return [artefact for artefact in self.artefacts if artefact.name in wanted]

    def state(self, artefact: Artefact) -> State:
        """Looked up once; `forget` after something was made."""
        if artefact.name not in self._states:
            self._states[artefact.name] = self._look(artefact)
        return self._states[artefact.name]

    def forget(self) -> None:
        self._states.clear()

    def to_make(self, artefacts: Sequence[Artefact]) -> list[Artefact]:
        """Those of them that are not what the config means, and what these need that was pruned."""
        names = {artefact.name for artefact in artefacts if not self.state(artefact).usable}
        for artefact in reversed(artefacts):
            if artefact.name in names and not artefact.always:
                names |= {needed.name for needed in artefact.inputs if self.state(needed).word == "pruned"}
        return [artefact for artefact in artefacts if artefact.name in names or artefact.always]

    def made_from(self, artefact: Artefact) -> dict[str, Any]:
        """What it would be made from now, for its manifest. An input that is not there is a `UserError` that names its
        job."""
        inputs = {}
        for before in (*artefact.inputs, *artefact.shows):
            manifest = read_manifest(before.path)
            if manifest is None and before in artefact.shows:
                continue
            if manifest is None:
                raise UserError(
                    f"{before.path / MANIFEST}: not found; run `launch.py {before.job}` with the same --workdir first"
                )
            inputs[before.name] = _content(before, manifest)
        made_from = {
            "version": artefact.version,
            "settings": artefact.settings().values,
            "files": {name: self._hashes.sha256(path) for name, path in artefact.files().items()},
            "inputs": inputs,
            "facts": artefact.facts(),
        }
        return json.loads(json.dumps(made_from))

    def differences(self, artefact: Artefact, recorded: Mapping[str, Any]) -> list[str]:
        """What it was made from and is no longer so, each in words. Inputs that are not current themselves are left
        out."""
        reasons = []
        if recorded.get("version") != artefact.version:
            reasons.append(f"this version of the code makes {artefact.job} otherwise")
        settings = artefact.settings()
        before = _mapping(recorded.get("settings"))
        for key in settings.differences(before):
            old, new = before.get(key, settings.defaults.get(key)), settings.values.get(key)
            reasons.append(f"config.{key} was {_short(old)}, is {_short(new)}")
        files, hashes = artefact.files(), _mapping(recorded.get("files"))
        for name in sorted(files.keys() | hashes.keys()):
            if name not in files:
                reasons.append(f"{name} is no longer named")
            elif not files[name].is_file():
                reasons.append(f"{name} is not there: {files[name]}")
            elif hashes.get(name) != self._hashes.sha256(files[name]):
                reasons.append(f"{name} changed: {files[name]}" if name in hashes else f"{name} is new: {files[name]}")
        facts, facts_before = json.loads(json.dumps(artefact.facts())), _mapping(recorded.get("facts"))
        reasons += [
            f"{key} changed"
            for key in sorted(facts.keys() | facts_before.keys())
            if facts.get(key) != facts_before.get(key)
        ]
        inputs = _mapping(recorded.get("inputs"))
        for needed in (*artefact.inputs, *artefact.shows):
            manifest = read_manifest(needed.path) if self.state(needed).usable else None
            if manifest is not None and _content(needed, manifest) != inputs.get(needed.name):
                reasons.append(f"made from another {needed.name}" if needed.name in inputs else f"{needed.name} is new")
        names = {needed.name for needed in (*artefact.inputs, *artefact.shows)}
        return reasons + [f"{name} is no longer part of it" for name in inputs if name not in names]

    def holds(self, artefact: Artefact) -> bool:
        """Whether it is whole, and was made from just what it would be made from now, in whatever state its inputs
        are."""
        try:
            recorded, manifest = read_record(artefact), read_manifest(artefact.path)
            if recorded is None or manifest is None or self.differences(artefact, recorded):
                return False
            same_inputs = self.made_from(artefact)["inputs"] == recorded.get("inputs")
            return same_inputs and _on_disk(artefact.path, _mapping(manifest.get("file_sizes"))).word == "current"
        except UserError:  # damaged, or something it is made from is not there
            return False

    def _look(self, artefact: Artefact) -> State:
        try:
            manifest = read_manifest(artefact.path)
            if artefact.given:
                return (
                    State(word="current") if manifest is not None else State(word="missing", reason=artefact.progress())
                )
            recorded = read_record(artefact)
        except UserError as error:
            return State(word="out of date", reason=str(error), changed=(str(error),))
        if recorded is None:
            return State(word="missing", reason=self._waiting(artefact) or artefact.progress())
        try:
            changed = self.differences(artefact, recorded)
        except UserError as error:
            changed = [str(error)]
        if changed:
            more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
            return State(word="out of date", reason="; ".join(changed[:3]) + more, changed=tuple(changed))
        if waiting := self._waiting(artefact):
            return State(word="waits", reason=waiting)
        if manifest is None:
            return State(word="missing", reason=artefact.progress() or "was stopped")
        on_disk = _on_disk(artefact.path, manifest.get("file_sizes", {}))
        if on_disk.word == "pruned" and not artefact.prunable:
            return State(word="out of date", reason=on_disk.reason)
        return on_disk

    def _waiting(self, artefact: Artefact) -> str:
        waiting = [needed.name for needed in (*artefact.inputs, *artefact.shows) if not self.state(needed).usable]
        return (
            f"for {', '.join(waiting[:3])}" + (f" and {len(waiting) - 3} more" if len(waiting) > 3 else "")
            if waiting
            else ""
        )


def read_record(artefact: Artefact) -> dict[str, Any] | None:
    """What an artefact, finished or not, was made from; None where there is none. Damaged: `UserError`."""
    path = artefact.path / artefact.record
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))[MADE_FROM])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__})") from None


def _content(artefact: Artefact, manifest: Mapping[str, Any]) -> Any:
    """What of an artefact counts for what is made from it, as JSON gives it back."""
    try:
        return json.loads(json.dumps(artefact.content(manifest)))
    except KeyError as error:
        raise UserError(
            f"{artefact.path / MANIFEST}: damaged (no {error}); run `launch.py {artefact.job}` again"
        ) from None


def with_ancestors(artefact: Artefact) -> Iterable[Artefact]:
    """An artefact and all it is made from."""
    yield artefact
    for before in (*artefact.inputs, *artefact.shows):
        yield from with_ancestors(before)


def _on_disk(path: Path, sizes: Mapping[str, int]) -> State:
    """Whether the files that a manifest lists are there with their sizes."""
    gone = []
    for name, size in sizes.items():
        try:
            actual_size = (path / name).stat().st_size
        except OSError:
            gone.append(name)
            continue
        if actual_size != size:
            damage = f"{name} has {actual_size:,} bytes, not {size:,}"
            return State(word="out of date", reason=damage)
    if gone:
        return State(word="pruned", reason=f"{len(gone)} of {len(sizes)} files were deleted, such as {gone[0]}")
    return State(word="current")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]}... ({fingerprint(value)[:8]})"
