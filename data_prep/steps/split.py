"""Step 4: every interaction is of the training, validation or test period."""

from dataclasses import dataclass

from cprec_jax.errors import UserError
from cprec_jax.progress import say
from data_prep.engine import quoted
from data_prep.steps.clean_interactions import SLICES
from data_prep.steps.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Split:
    """times: platform -> {"t1", "t2"} in unix seconds; training_repeats: how often, by domain, a user meets an item
    again in the training period."""

    times: dict[str, dict[str, int]]
    training_repeats: list[int]


def split_periods(ledger: Ledger) -> Split:
    """Fix t1 and t2 of each platform, then mark every interaction as training, validation or test.

    A platform without an interaction to take quantiles of is a `UserError`.
    """
    engine = ledger.engine
    times: dict[str, dict[str, int]] = {}
    for (platform,) in engine.rows("SELECT DISTINCT platform FROM sources WHERE split = 'time' ORDER BY platform"):
        t1, t2 = _split_times(ledger, platform)
        times[platform] = {"t1": t1, "t2": t2}
        engine.loader.execute(
            f"UPDATE sources SET t1 = {t1}, t2 = {t2} WHERE platform = {quoted(platform)} AND split = 'time'"
        )
    engine.share("sources")
    engine.script("split")
    ledger.count_train("training period")
    training_repeats = _training_repeats(ledger)
    if ledger.spec.exclude_test_users:
        engine.script("exclude_test_users")
        ledger.count_train("training period without test users")
    return Split(times=times, training_repeats=training_repeats)


def _training_repeats(ledger: Ledger) -> list[int]:
    repeats = [0] * len(ledger.spec.sources)
    for part in range(SLICES):
        again = (
            f"SELECT item, count(*) - 1 AS n FROM train WHERE user % {SLICES} = {part} GROUP BY user, item HAVING "
            "count(*) > 1"
        )
        of_part = ledger.by_domain(
            f"SELECT c.domain, sum(r.n) FROM ({again}) AS r JOIN catalogue c ON r.item = c.item GROUP BY c.domain"
        )
        repeats = [before + n for before, (n,) in zip(repeats, of_part, strict=True)]
    return repeats


def _split_times(ledger: Ledger, platform: str) -> tuple[int, int]:
    """t1 and t2 as given, or quantiles of the interactions of the platform's downstream sources (of all of its sources
    where it has none)."""
    spec, engine = ledger.spec, ledger.engine
    if platform in spec.times:
        return spec.times[platform].seconds
    of_platform = (
        "FROM interactions i JOIN sources s ON i.domain = s.domain WHERE s.split = 'time' AND s.platform = "
        f"{quoted(platform)}"
    )
    if engine.value(f"SELECT count(*) {of_platform} AND s.role = 'downstream'"):
        of_platform += " AND s.role = 'downstream'"
    n = engine.value(f"SELECT count(*) {of_platform}")
    if not n:
        raise UserError(f"config.corpus.times: platform {platform!r} has no interactions left to take quantiles of")
    t1, t2 = (
        engine.value(f"SELECT i.time {of_platform} ORDER BY i.time LIMIT 1 OFFSET {int(q * n)}") for q in spec.quantiles
    )
    if t1 == t2:
        say(
            f"platform {platform}: both split times are {t1}; there is no validation period (set "
            f"config.corpus.times.{platform})"
        )
    return t1, t2
