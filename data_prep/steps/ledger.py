"""What every step needs: the spec, the engine, and the counts that go into the manifest."""

from cprec_jax.config.corpus import CorpusSpec
from data_prep.engine import Relational
from data_prep.losses import Accounts
from data_prep.rejects import SAMPLES, Rejects


class Ledger:
    """Counts of one preparation. Steps only ever add to them, so that nothing is lost silently.

    counts: source -> step -> {"interactions", "users", "items"} that are left after it.
    """

    def __init__(self, spec: CorpusSpec, engine: Relational):
        self.spec, self.engine = spec, engine
        self.rejects = Rejects(spec.max_bad_lines)
        self.accounts = Accounts([source.name for source in spec.sources], self.rejects)
        self.counts: dict[str, dict[str, dict[str, int]]] = {source.name: {} for source in spec.sources}

    def count(self, domain: int, step: str, interactions: int, users: int, items: int) -> None:
        """Note what `step` left of the source number `domain`."""
        left = {"interactions": interactions, "users": users, "items": items}
        self.counts[self.spec.sources[domain].name][step] = left

    def count_train(self, step: str) -> None:
        """Note what `step` left of the training interactions of every source."""
        users = self.by_domain("SELECT domain, sum(n), count(*) FROM users_left GROUP BY domain", 2)
        items = self.by_domain("SELECT domain, count(*) FROM items_left GROUP BY domain")
        for domain, ((n, n_users), (n_items,)) in enumerate(zip(users, items, strict=True)):
            self.count(domain, step, n, n_users, n_items)

    def by_domain(self, query: str, width: int = 1) -> list[list[int]]:
        """The numbers of a query for `domain` and `width` numbers, one row per domain; zeros where a domain has
        none."""
        numbers_of = {domain: [int(number) for number in numbers] for domain, *numbers in self.engine.rows(query)}
        return [numbers_of.get(domain, [0] * width) for domain in range(len(self.spec.sources))]

    def reject(self, reason: str, query: str, count: str | None = None) -> None:
        """Count what a one-column query names as refused for `reason`; `count` is a cheaper query for how many."""
        n = self.engine.value(count or f"SELECT count(*) FROM ({query}) AS refused")
        if n:
            self.rejects.count(reason, n, [row[0] for row in self.engine.rows(f"{query} ORDER BY 1 LIMIT {SAMPLES}")])
