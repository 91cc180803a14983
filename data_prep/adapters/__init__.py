"""Adapters: one file per platform; each fills the engine's raw tables from what a platform really publishes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from cprec_jax.config.build import nearest
from cprec_jax.config.corpus import CorpusSpec
from cprec_jax.config.source import Order, SourceSpec
from cprec_jax.errors import UserError
from data_prep.engine import Engine
from data_prep.rejects import Rejects


class Adapter(Protocol):
    """Made once a corpus; asked once for every source that names it."""

    def files(self, source: SourceSpec) -> dict[str, Path]:
        """The files the source is read from, by what they are ("interactions", "items"); they are hashed into the
        manifest."""
        ...

    def load(self, source: SourceSpec, domain: int, engine: Engine, rejects: Rejects) -> Order:
        """Append to `raw_interactions` (domain, user_id, item_id, time, place) and `raw_items` (domain, item_id,
        title).

        Returns what `time` is. `place` is the row in the file; NULL where there is none.
        """
        ...


@runtime_checkable
class KnowsTruth(Protocol):
    """What an adapter has besides where its data were made, and so the best possible ranking is known."""

    def oracle(
        self,
        source: SourceSpec,
        user: np.ndarray,
        offsets: np.ndarray,
        item_ids: Sequence[str],
        catalogue: Sequence[str],
    ) -> np.ndarray:
        """Next-item probabilities [n, len(catalogue)] of users with these histories (flat `item_ids`, cut by
        `offsets`)."""
        ...


def make_adapters(spec: CorpusSpec) -> dict[str, Adapter]:
    """The adapters that `spec` names. An unknown name is a `UserError`."""
    from data_prep.adapters.amazon import RELEASES, AmazonAdapter
    from data_prep.adapters.movielens import MovieLensAdapter
    from data_prep.adapters.ninerec import NineRecAdapter
    from data_prep.adapters.synthetic import SyntheticAdapter
    from data_prep.adapters.table import TableAdapter
    from data_prep.adapters.tfds import TfdsAdapter

    known: dict[str, Callable[[CorpusSpec], Adapter]] = {
        "table": TableAdapter,
        "synthetic": SyntheticAdapter,
        **dict.fromkeys(RELEASES, AmazonAdapter),
        "movielens": MovieLensAdapter,
        "ninerec": NineRecAdapter,
        "tfds": TfdsAdapter,
    }
    adapters: dict[str, Adapter] = {}
    for source in spec.sources:
        if source.adapter not in known:
            raise UserError(
                f"config.corpus.sources.{source.name}.adapter: unknown adapter "
                f"{source.adapter!r}{nearest(source.adapter, known)}"
            )
        adapters.setdefault(source.adapter, known[source.adapter](spec))
    return adapters
