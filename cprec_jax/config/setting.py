"""One field of a config section: its default, one line of help, and what it affects."""

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING
from typing import Any


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    factory: Callable[[], Any] | Any = MISSING,
    affects: tuple[str, ...] | None = None,
    content: bool = False,
) -> Any:
    """A dataclass field for a config section.

    Args:
      default: its value where the config leaves it out; without one (and without a `factory`) the key must be given.
      help: one line for `JOB --help`.
      affects: the kinds of artefacts that are made anew when it changes (see `config/affects.py`). None: what the field
        around it affects, and for a section of the config that section's own artefact.
      content: it names files, which count by their content and not by their path.
    """
    metadata = {"help": help, "affects": affects, "content": content}
    if factory is not MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
