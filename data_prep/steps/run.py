"""The relational steps in order: sources -> items, sequences and the manifest of the corpus."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cprec_jax.config.corpus import CorpusSpec
from data_prep.adapters import Adapter
from data_prep.engine import Relational
from data_prep.steps.clean_interactions import clean_interactions
from data_prep.steps.clean_items import clean_items
from data_prep.steps.empty import say_what_is_empty
from data_prep.steps.k_core import filter_k_core
from data_prep.steps.ledger import Ledger
from data_prep.steps.manifest import mixed_entry, set_entries
from data_prep.steps.read import ReadSource, read_source
from data_prep.steps.split import split_periods
from data_prep.write_corpus import write_items, write_sequences


def run_steps(spec: CorpusSpec, adapters: Mapping[str, Adapter], engine: Relational, folder: Path) -> dict[str, Any]:
    """Read, clean, split, filter, write items and sequences below `folder`; returns the manifest so far.

    The engine keeps the tables that `explain` asks for.
    """
    ledger = Ledger(spec, engine)
    engine.loader.script("tables")
    sources = [read_source(ledger, adapters, domain) for domain in range(len(spec.sources))]
    titles = clean_items(ledger)
    clean_interactions(ledger, sources)
    split = split_periods(ledger)
    k_core_rounds = filter_k_core(ledger)
    engine.script("histories")
    say_what_is_empty(ledger, split.times)
    if not spec.explain:
        engine.execute("DROP TABLE interactions")
    engine.script("sequences")
    engine.execute("DROP TABLE train")
    write_items(engine, folder)
    write_sequences(engine, folder)
    return {
        "domains": [source.name for source in spec.sources],
        "n_items": engine.value("SELECT count(*) FROM catalogue"),
        "sources": _source_entries(spec, adapters, sources),
        "sets": set_entries(ledger, split.training_repeats),
        "times": split.times,
        "filters": {
            "k_core": {source.name: spec.k_core_of(source) for source in spec.sources},
            "k_core_rounds": k_core_rounds,
            "min_history": spec.min_history,
        },
        "seed": spec.seed,
        "counts": ledger.counts,
        "mixed": mixed_entry(engine),
        "rejected": ledger.rejects.as_dict(),
        "losses": ledger.accounts.as_dict(),
        "titles": titles,
    }


def _source_entries(
    spec: CorpusSpec, adapters: Mapping[str, Adapter], sources: Sequence[ReadSource]
) -> dict[str, dict[str, Any]]:
    """What the manifest says of each source and its files."""
    return {
        source.name: {
            "role": source.role,
            "adapter": source.adapter,
            "platform": source.platform,
            "order": read.order,
            "rows": read.rows,
            "files": {which: {"path": str(path)} for which, path in adapters[source.adapter].files(source).items()},
        }
        for source, read in zip(spec.sources, sources, strict=True)
    }
