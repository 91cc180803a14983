"""Job `prepare`: raw interactions -> WORKDIR/corpus."""

from collections.abc import Sequence
from pathlib import Path

from cprec_jax import workdir as paths
from cprec_jax.config.affects import settings_of
from cprec_jax.config.root import Config
from cprec_jax.corpus import VERSION
from cprec_jax.graph import Artefact, Graph


def artefact(config: Config, workdir: Path) -> Artefact:
    return Artefact(
        name="corpus",
        path=paths.corpus_directory(workdir),
        job="prepare",
        version=VERSION,
        settings=lambda: settings_of(config, {"corpus"}),
        files=lambda: _source_files(config),
        content=lambda manifest: manifest["corpus_hash"],
        given=config.corpus is None,
    )


def _source_files(config: Config) -> dict[str, Path]:
    from data_prep.prepare import source_files

    return source_files(config.corpus_section)


def make(config: Config, workdir: Path, wanted: Sequence[Artefact], graph: Graph) -> None:
    """Fetch what is missing and may be fetched, then write the corpus."""
    from data_prep.download import download_missing
    from data_prep.prepare import prepare

    spec = config.corpus_section
    if spec.download:
        download_missing(spec)
    for corpus in wanted:
        prepare(spec, config.text.template, corpus.path, graph.made_from(corpus))
