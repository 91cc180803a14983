"""Step 5: training interactions of users and items with at least k of them."""

from cprec_jax.progress import say
from data_prep.steps.ledger import Ledger

MUCH_LOST = 0.5  # a filter that keeps less than this is worth a line


def filter_k_core(ledger: Ledger) -> int:
    """Filter round by round to the fixed point; returns how many rounds it took."""
    engine = ledger.engine
    before = engine.value("SELECT sum(n) FROM users_left")
    n_rounds = 0
    while engine.value("SELECT max(k_core) FROM sources") > 1:
        engine.script("k_core_round")
        after = engine.value("SELECT sum(n) FROM users_left")
        n_rounds += 1
        if after == before:
            break
        before = after
    if n_rounds > 1:
        engine.script("k_core_end")
    ledger.count_train("after k-core")
    for name, counts in ledger.counts.items():
        n_before, n_left = counts["training period"]["interactions"], counts["after k-core"]["interactions"]
        if n_left < n_before * MUCH_LOST:
            say(
                f"{name}: the k-core filter leaves {n_left} of {n_before} training interactions; config.corpus.k_core "
                "= 0 keeps all"
            )
    return n_rounds
