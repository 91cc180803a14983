"""Step 3: interactions with a known title, without exact duplicates and consecutive repeats, in order per user."""

from collections.abc import Sequence

from data_prep.losses import OF_UNTITLED, UNKNOWN
from data_prep.steps.ledger import Ledger
from data_prep.steps.read import ReadSource

# of the users, where there is a group for nearly every interaction: such a table would be the largest thing in memory
SLICES = 4
# Of the items of the interactions, those without a title, and those that no file of items lists.
_JOIN_UNTITLED = (
    "JOIN (SELECT domain, item_id FROM clean_items GROUP BY domain, item_id HAVING count(title) = 0) AS i "
    "ON r.domain = i.domain AND r.item_id = i.item_id"
)
_JOIN_UNKNOWN = (
    "LEFT JOIN (SELECT DISTINCT domain, item_id FROM clean_items) AS i "
    "ON r.domain = i.domain AND r.item_id = i.item_id WHERE i.item_id IS NULL"
)


def clean_interactions(ledger: Ledger, sources: Sequence[ReadSource]) -> None:
    """Make the table `interactions` from what was read of `sources`, and print what became of each.

    Too large a loss, or nothing left, is a `UserError`.
    """
    engine = ledger.engine
    _reject_interactions(ledger, [source.rows["interactions"] for source in sources])
    _check_users(ledger)
    users = ledger.by_domain("SELECT domain, count(*) FROM read_users GROUP BY domain")
    items = ledger.by_domain("SELECT domain, sum(n), count(*) FROM read_items GROUP BY domain", 2)
    for domain, ((n_users,), (n, n_items)) in enumerate(zip(users, items, strict=True)):
        ledger.count(domain, "read", n, n_users, n_items)
    engine.script("known")
    # What is not needed any more is dropped at once: it would be held in memory, or spilled.
    for table in ("read_interactions", "clean_items"):
        engine.loader.execute(f"DROP TABLE {table}")
    for part in range(SLICES):
        into = "INSERT INTO tied_moments" if part else "CREATE TABLE tied_moments AS"
        engine.execute(
            f"{into} SELECT user, time FROM known WHERE user % {SLICES} = {part} GROUP BY user, time HAVING count(*) > "
            "1"
        )
    engine.script("interactions")
    engine.loader.execute("DROP TABLE read_places")
    _count_interactions(ledger)
    splits = [f"order by {source.order}, split {source.split}" for source in sources]
    ledger.accounts.say_or_refuse(splits, ledger.spec.max_lost_share)


def _reject_interactions(ledger: Ledger, n_read: Sequence[int]) -> None:
    """Count the interactions whose item has no usable title, or is unknown; `n_read` interactions per source."""
    named = (
        "SELECT s.name || ' ' || u.user_id || ' ' || r.item_id FROM read_interactions a "
        "JOIN read_users u ON a.domain = u.domain AND a.user = u.user JOIN read_items r ON a.code = r.code "
        "JOIN sources s ON a.domain = s.domain"
    )
    n_refused = "SELECT coalesce(sum(r.n), 0) FROM read_items r"
    for reason, join in ((OF_UNTITLED, _JOIN_UNTITLED), (UNKNOWN, _JOIN_UNKNOWN)):
        ledger.reject(reason, f"{named} {join}", f"{n_refused} {join}")
    untitled, unknown = (
        [n for (n,) in ledger.by_domain(f"SELECT r.domain, sum(r.n) FROM read_items r {join} GROUP BY r.domain")]
        for join in (_JOIN_UNTITLED, _JOIN_UNKNOWN)
    )
    ledger.accounts.count_refused_interactions(ledger.engine.loader, n_read, untitled, unknown)


def _check_users(ledger: Ledger) -> None:
    people = "SELECT DISTINCT s.platform, u.user_id, u.user FROM read_users u JOIN sources s ON u.domain = s.domain"
    clashes = f"SELECT count(*) - count(DISTINCT p.user) FROM ({people}) AS p"
    assert ledger.engine.value(clashes) == 0, "two users share a 60-bit hash"


def _count_interactions(ledger: Ledger) -> None:
    """The counts of the steps up to `interactions`, from the small tables that they left."""
    engine = ledger.engine
    known = ledger.by_domain(
        "SELECT r.domain, sum(r.n), count(DISTINCT i.item) FROM read_items r "
        "JOIN item_numbers i ON r.domain = i.domain AND r.item_id = i.item_id GROUP BY r.domain",
        2,
    )
    left = ledger.by_domain("SELECT domain, sum(n), count(*) FROM user_counts GROUP BY domain", 2)
    duplicates = ledger.by_domain("SELECT domain, sum(n - 1) FROM ties GROUP BY domain")
    for domain, ((n_known, n_items), (n_left, n_users), (n_duplicates,)) in enumerate(
        zip(known, left, duplicates, strict=True)
    ):
        # None of these steps takes a user's last interaction with an item, so users and items stay as they are.
        ledger.count(domain, "with a known title", n_known, n_users, n_items)
        ledger.count(domain, "without exact duplicates", n_known - n_duplicates, n_users, n_items)
        ledger.count(domain, "without consecutive repeats", n_left, n_users, n_items)
        ledger.accounts.count_folded_interactions(engine, domain, n_duplicates, n_known - n_duplicates - n_left)
    for table in ("known", "ties", "item_numbers"):
        engine.execute(f"DROP TABLE {table}")
    for table in ("read_items", "read_users"):
        engine.loader.execute(f"DROP TABLE {table}")
