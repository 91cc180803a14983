"""The objective of a run's config section, with the rows and catalogues that it reads."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cprec_jax.artefact import MANIFEST, read_json
from cprec_jax.config.objective import ObjectiveSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.model.decoder import Decoder
from cprec_jax.progress import say
from cprec_jax.rows import dataset as rows
from cprec_jax.rows import saved_catalogue
from cprec_jax.text import tokenizer
from cprec_jax.train.catalogue_rows import capacities
from cprec_jax.train.catalogue_tables import CatalogueTables, build_tables
from cprec_jax.train.objectives.catalogue import CatalogueLikelihood
from cprec_jax.train.objectives.cpt import Cpt
from cprec_jax.train.objectives.objective import Objective


def make_objective(
    spec: ObjectiveSpec,
    decoder: Decoder,
    loss_chunk: int,
    directory: Path,
    splits: Sequence[str],
    corpus: Path,
    sets: Sequence[str],
) -> Objective:
    """The objective of a run.

    Args:
      loss_chunk: positions per chunk of logits.
      directory, splits: of its rows.
      corpus: the directory of the corpus, which only the catalogue likelihood reads.
      sets: those the run is fine-tuned on; none for pre-training, whose rows hold items of all sets.

    Raises `UserError` for rows that were packed from another corpus.
    """
    if spec.objective == "language-model":
        return Cpt(decoder=decoder, loss_chunk=loss_chunk)
    tables = _tables(directory, Corpus.open(corpus), sets)
    room = capacities(tables, _stored_rows(directory, splits))
    say(
        f"train: loss over the catalogue: {int(np.count_nonzero(tables.item_set >= 0))} titles, at most {room.wide} "
        f"wide decisions and {room.blocks} blocks of narrow ones per row"
    )
    return CatalogueLikelihood(
        decoder=decoder,
        loss_chunk=loss_chunk,
        lm_weight=spec.lm_weight,
        loss_temperature=spec.loss_temperature,
        tables=tables,
        capacities=room,
    )


def _tables(directory: Path, corpus: Corpus, sets: Sequence[str]) -> CatalogueTables:
    """The tables of the whole catalogues, with the items without a training interaction."""
    manifest = read_json(directory / MANIFEST, "pack")
    if manifest["corpus_hash"] != corpus.hash:
        raise UserError(
            f"{directory}: was packed from another corpus than {corpus.path}, so its items may not be in the "
            "catalogue; run `launch.py pack` again"
        )
    catalogues = {name: corpus.catalogue(name) for name in sets or corpus.sets}
    needed = np.sort(np.concatenate(list(catalogues.values())))
    of_rows = tokenizer.load(directory / "tokenizer")
    end_of_item = manifest["template"]["end_of_item"]
    catalogue = saved_catalogue.load_or_build(directory, of_rows, corpus.items.title, end_of_item, needed)
    return build_tables(catalogue, catalogues)


def _stored_rows(directory: Path, splits: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    def of_split(split: str) -> Iterator[Mapping[str, Any]]:
        source = rows.open_split(directory, split)
        return (source[index] for index in range(len(source)))

    return itertools.chain.from_iterable(map(of_split, splits))
