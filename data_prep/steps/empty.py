"""Between the steps: which sets have nothing to train on, or nobody to test."""

from collections.abc import Mapping

from cprec_jax.config.source import SourceSpec
from cprec_jax.errors import UserError
from cprec_jax.progress import say
from data_prep.rejects import SAMPLES
from data_prep.steps.ledger import Ledger


def say_what_is_empty(ledger: Ledger, times: Mapping[str, Mapping[str, int]]) -> None:
    """A line for every set with nothing to train on or nobody to test; a corpus with neither training nor targets is a
    `UserError`."""
    sources = ledger.spec.sources
    tested = ledger.by_domain(
        "SELECT domain, count(*) FILTER (WHERE phase = 2), count(*) FROM histories GROUP BY domain", 2
    )
    trained = [ledger.counts[source.name]["after k-core"]["interactions"] for source in sources]
    if not sum(trained) and not sum(n_targets for _, n_targets in tested):
        splits = ", ".join(f"{source.name} ({_split_of(ledger, source, times)})" for source in sources[:SAMPLES])
        raise UserError(
            "config.corpus: neither a training interaction nor a target is left; "
            f"check times (or quantiles), k_core and min_history: {splits}"
        )
    for source, n_trained, (n_test, _) in zip(sources, trained, tested, strict=True):
        numbers = {"training interactions": n_trained, "test users": n_test}
        missing = [what for what, number in numbers.items() if not number]
        if missing:
            say(f"{source.name}: no {' and no '.join(missing)} ({_split_of(ledger, source, times)})")


def _split_of(ledger: Ledger, source: SourceSpec, times: Mapping[str, Mapping[str, int]]) -> str:
    """For messages: how a set was split, and what times its interactions have."""
    domain = ledger.spec.sources.index(source)
    split = ledger.engine.value(f"SELECT split FROM sources WHERE domain = {domain}")
    first, last = ledger.engine.rows(f"SELECT min(time), max(time) FROM interactions WHERE domain = {domain}")[0]
    if first is None:
        return "no interaction is left after cleaning"
    if split != "time":
        return "split leave_one_out"
    t1, t2 = times[source.platform]["t1"], times[source.platform]["t2"]
    return f"t1 = {t1}, t2 = {t2}, its interactions are of {first} to {last}"
