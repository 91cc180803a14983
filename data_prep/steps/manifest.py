"""What the manifest says of each set, and of the mixed sequences, from the tables that the steps left."""

from collections.abc import Sequence
from typing import Any

from cprec_jax.corpus import SMALL_SET
from data_prep.engine import Relational
from data_prep.steps.ledger import Ledger


def set_entries(ledger: Ledger, training_repeats: Sequence[int]) -> dict[str, dict[str, Any]]:
    """What the manifest says of every domain as a set to evaluate on."""
    by_phase = "count(*) FILTER (WHERE phase = 2), count(*) FILTER (WHERE phase = 1)"
    items = ledger.by_domain("SELECT domain, count(*) FROM catalogue GROUP BY domain")
    kept = ledger.by_domain(
        f"SELECT domain, {by_phase}, count(*) FILTER (WHERE phase = 2 AND untied) FROM histories GROUP BY domain",
        width=3,
    )
    available = ledger.by_domain(f"SELECT domain, {by_phase} FROM targets GROUP BY domain", width=2)
    cold = ledger.by_domain(
        "SELECT h.domain, count(*) FROM histories h LEFT JOIN train_counts c ON h.target = c.item "
        "WHERE h.phase = 2 AND c.item IS NULL GROUP BY h.domain"
    )
    short = ledger.by_domain(
        f"SELECT domain, count(*) FROM firsts WHERE phase = 2 AND place <= {ledger.spec.min_history} GROUP BY domain"
    )
    single = ledger.by_domain("SELECT domain, count(*) FROM user_counts WHERE n = 1 GROUP BY domain")
    splits = dict(ledger.engine.rows("SELECT domain, split FROM sources"))
    entries = {}
    for domain, source in enumerate(ledger.spec.sources):
        n_test, n_valid, n_untied = kept[domain]
        entries[source.name] = {
            "domain_id": domain,
            "role": source.role,
            "split": splits[domain],
            "n_items": items[domain][0],
            "n_test_users": n_test,
            "n_valid_users": n_valid,
            "n_test_users_available": available[domain][0],
            "n_valid_users_available": available[domain][1],
            "n_test_untied": n_untied,
            "n_test_targets_never_trained": cold[domain][0],
            "n_test_users_with_short_history": short[domain][0],
            "n_users_with_one_interaction": single[domain][0],
            "n_training_repeats": training_repeats[domain],
            "repeats": training_repeats[domain] > 0,
            "too_small": n_test < SMALL_SET,
        }
    return entries


def mixed_entry(engine: Relational) -> dict[str, Any]:
    """What the manifest says of the sequences over all domains of a platform."""
    left_out = engine.rows(
        "SELECT name FROM sources WHERE role = 'pretrain' AND item_order = 'position' ORDER BY domain"
    )
    users, interactions = engine.rows("SELECT count(*), coalesce(sum(array_length(events)), 0) FROM mixed_sequences")[0]
    return {
        "users": users,
        "interactions": int(interactions),
        "left out (order only)": [name for (name,) in left_out],
    }
