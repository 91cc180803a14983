"""The relational steps in order, and what the manifest says of each."""

import datetime
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from cprec_jax.config.corpus import READ_BY, CorpusSpec, Order, SourceSpec
from cprec_jax.corpus import SMALL_SET
from cprec_jax.errors import UserError
from cprec_jax.progress import say
from data_prep.adapters import Adapter
from data_prep.adapters.times import EARLY
from data_prep.engine import Relational, quoted
from data_prep.losses import Accounts, say_decimal_ids, say_null_ids
from data_prep.rejects import SAMPLES, Rejects
from data_prep.titles import NULL_WORDS, PLAIN_TITLE, clean_titles, count_plain_titles
from data_prep.write_corpus import write_items, write_sequences

MUCH_LOST = 0.5  # a filter that keeps less than this is worth a line
NO_LIMIT = 2**62
# of the users, where there is a group for nearly every interaction: such a table would be the largest thing in memory
SLICES = 4


class Preparation:
    """One run over one engine. Steps only ever add to the manifest's counts, so that nothing is lost silently."""

    def __init__(self, spec: CorpusSpec, adapters: Mapping[str, Adapter], engine: Relational):
        self.spec, self.adapters, self.engine = spec, adapters, engine
        self.rejects = Rejects(spec.max_bad_lines)
        self.accounts = Accounts([source.name for source in spec.sources], self.rejects)
        self.splits: list[str] = []  # of the sources, in words
        self.title_counts: Counter[str] = Counter()
        self.rows: list[dict[str, int]] = []  # of the source files, by domain
        self.counts: dict[str, dict[str, dict[str, int]]] = {source.name: {} for source in spec.sources}

    def run(self, folder: Path) -> dict[str, Any]:
        """Load, clean, split, filter, write items and sequences below `folder`; returns the manifest so far."""
        self.engine.loader.script("tables")
        orders = [self._load(domain) for domain in range(len(self.spec.sources))]
        self._clean_items()
        self._interactions()
        times = self._split()
        self._filter()
        self.engine.script("histories")
        self._say_what_is_empty(times)
        if not self.spec.explain:
            self.engine.execute("DROP TABLE interactions")
        self.engine.script("sequences")
        self.engine.execute("DROP TABLE train")
        write_items(self.engine, folder)
        write_sequences(self.engine, folder)
        return self._manifest(orders, times)

    def _load(self, domain: int) -> Order:
        source = self.spec.sources[domain]
        loader = self.engine.loader
        self.rejects.source, self.rejects.reads = source.name, READ_BY.get(source.adapter, set())
        order = self.adapters[source.adapter].load(source, domain, loader, self.rejects)
        split = self.spec.split_of(source, order)
        values = [
            str(domain),
            *map(quoted, (source.name, source.role, source.platform, order, split)),
            "NULL",
            "NULL",
            *map(str, (self.spec.k_core_of(source), self.spec.seed, self.spec.min_history)),
            *(
                str(NO_LIMIT if most is None else most)
                for most in (self.spec.max_valid_users, self.spec.max_test_users)
            ),
            quoted(self.spec.ties),
            str(self.spec.titles.max_length),
        ]
        loader.execute(f"INSERT INTO sources VALUES ({', '.join(values)})")
        rows = {
            which: loader.value(f"SELECT count(*) FROM raw_{which} WHERE domain = {domain}")
            for which in ("interactions", "items")
        }
        self.rows.append(rows)
        self.splits.append(f"order by {order}, split {split}")
        if order == "timestamp":
            self._say_if_early(domain, source.name)
        loader.script("encode")
        say_null_ids(loader, domain, source.name, rows["interactions"])
        say_decimal_ids(loader, domain, source.name)
        return order

    def _say_if_early(self, domain: int, name: str) -> None:
        first, last = self.engine.loader.rows(
            f"SELECT min(time), max(time) FROM raw_interactions WHERE domain = {domain}"
        )[0]
        if last is not None and last < EARLY:
            days = [str(datetime.datetime.fromtimestamp(seconds, datetime.UTC).date()) for seconds in (first, last)]
            say(
                f"{name}: its times are of {days[0]} to {days[1]}, if they are unix seconds; does time_unit say what "
                f"they are?"
            )

    def _clean_items(self) -> None:
        loader, titles_spec = self.engine.loader, self.spec.titles
        words = ", ".join(map(quoted, NULL_WORDS))
        is_null = "false" if titles_spec.keep_null_words else f"trim(lower(title)) IN ({words})"
        plain = (
            f"regexp_full_match(title, {quoted(PLAIN_TITLE)}) AND strlen(title) <= {titles_spec.max_length} AND NOT "
            f"({is_null})"
        )
        null_words = loader.rows(f"SELECT domain, count(*), min(title) FROM raw_items WHERE {is_null} GROUP BY domain")
        n_plain = loader.value(f"INSERT INTO clean_items SELECT domain, item_id, title FROM raw_items WHERE {plain}")
        count_plain_titles(n_plain, self.title_counts)
        for batch in loader.batches(f"SELECT domain, item_id, title FROM raw_items WHERE ({plain}) IS NOT TRUE"):
            given = batch["title"].to_pylist()
            titles = clean_titles(given, titles_spec.max_length, self.title_counts, titles_spec.keep_null_words)
            cleaned = pa.table(
                {"domain": batch["domain"], "item_id": batch["item_id"], "title": pa.array(titles, pa.string())}
            )
            loader.insert("clean_items", cleaned.column_names, cleaned)
        loader.execute("DROP TABLE raw_items")
        self.engine.share("sources", "read_interactions", "read_places", "read_users", "read_items", "clean_items")
        self._reject(
            "item without a usable title",
            "SELECT s.name || ' ' || i.item_id FROM clean_items i JOIN sources s ON i.domain = s.domain WHERE i.title "
            "IS NULL",
        )
        self._reject(
            "item listed more than once",
            "SELECT s.name || ' ' || i.item_id || ' (' || count(*) || ' times, ' || count(DISTINCT i.title) || ' "
            "titles; one kept)' "
            "FROM clean_items i JOIN sources s ON i.domain = s.domain GROUP BY s.name, i.item_id HAVING count(*) > 1",
            "SELECT count(*) FROM (SELECT item_id FROM clean_items GROUP BY domain, item_id HAVING count(*) > 1) AS t",
        )
        self.engine.script("titled_items")
        shared = self._by_domain(
            "SELECT domain, sum(n), sum(n - 1) FROM (SELECT domain, count(*) AS n FROM titled_items GROUP BY domain, "
            "title) AS t "
            "GROUP BY domain",
            2,
        )
        self.title_counts["items sharing another's title"] = sum(again for _, again in shared)
        merged = [again if self.spec.titles.policy == "merge" else 0 for _, again in shared]
        self.accounts.count_items(
            loader, {domain: (n, word) for domain, n, word in null_words}, [n for n, _ in shared], merged
        )
        self.engine.script(f"items_{self.spec.titles.policy}")
        self.appended: dict[str, int] = {}
        if self.spec.titles.policy == "distinguish":
            self._count_appended()
        self.engine.script("catalogue")
        clash = self.engine.rows(
            "SELECT domain, title FROM catalogue GROUP BY domain, title HAVING count(*) > 1 LIMIT 1"
        )
        if clash:
            raise UserError(
                f"config.corpus.titles.policy: {clash[0][1]!r} occurs twice even with item ids appended; use 'merge'"
            )

    def _count_appended(self) -> None:
        appended = (
            "FROM item_names n JOIN titled_items t ON n.domain = t.domain AND n.item_id = t.item_id WHERE n.title <> "
            "t.title"
        )
        n = self.engine.value(f"SELECT count(*) {appended}")
        self.appended = {"item_id": n} if n else {}
        cut = self.engine.value(
            f"SELECT count(*) {appended} AND length(n.title) < length(t.title) + length(n.item_id) + 3"
        )
        if cut:
            self.title_counts["cut for the item id"] = cut
        most = self.spec.titles.max_length
        too_long = self.engine.rows(f"SELECT n.item_id {appended} AND length(n.title) > {most} LIMIT 1")
        if too_long:
            raise UserError(
                f"config.corpus.titles.max_length: {most} has no room for a title and the item id {too_long[0][0]!r}; "
                f"raise it"
            )

    def _interactions(self) -> None:
        named = (
            "SELECT s.name || ' ' || u.user_id || ' ' || r.item_id FROM read_interactions a "
            "JOIN read_users u ON a.domain = u.domain AND a.user = u.user JOIN read_items r ON a.code = r.code "
            "JOIN sources s ON a.domain = s.domain"
        )
        untitled = (
            "JOIN (SELECT domain, item_id FROM clean_items GROUP BY domain, item_id HAVING count(title) = 0) AS i "
            "ON r.domain = i.domain AND r.item_id = i.item_id"
        )
        unknown = (
            "LEFT JOIN (SELECT DISTINCT domain, item_id FROM clean_items) AS i "
            "ON r.domain = i.domain AND r.item_id = i.item_id WHERE i.item_id IS NULL"
        )
        refused = "SELECT coalesce(sum(r.n), 0) FROM read_items r"
        self._reject(
            "interaction with an item that has no usable title", f"{named} {untitled}", f"{refused} {untitled}"
        )
        self._reject("interaction with an unknown item", f"{named} {unknown}", f"{refused} {unknown}")
        of_each = [
            self._by_domain(f"SELECT r.domain, sum(r.n) FROM read_items r {which} GROUP BY r.domain")
            for which in (untitled, unknown)
        ]
        read = [rows["interactions"] for rows in self.rows]
        self.accounts.count_refused_interactions(
            self.engine.loader, read, *([n for (n,) in numbers] for numbers in of_each)
        )
        people = "SELECT DISTINCT s.platform, u.user_id, u.user FROM read_users u JOIN sources s ON u.domain = s.domain"
        clashes = f"SELECT count(*) - count(DISTINCT p.user) FROM ({people}) AS p"
        assert self.engine.value(clashes) == 0, "two users share a 60-bit hash"
        users = self._by_domain("SELECT domain, count(*) FROM read_users GROUP BY domain")
        items = self._by_domain("SELECT domain, sum(n), count(*) FROM read_items GROUP BY domain", 2)
        for domain, ((n_users,), (n, n_items)) in enumerate(zip(users, items, strict=True)):
            self._count(domain, "read", n, n_users, n_items)
        self.engine.script("known")
        # What is not needed any more is dropped at once: it would be held in memory, or spilled.
        for table in ("read_interactions", "clean_items"):
            self.engine.loader.execute(f"DROP TABLE {table}")
        for part in range(SLICES):
            into = "INSERT INTO tied_moments" if part else "CREATE TABLE tied_moments AS"
            moments = (
                f"SELECT user, time FROM known WHERE user % {SLICES} = {part} GROUP BY user, time HAVING count(*) > 1"
            )
            self.engine.execute(f"{into} {moments}")
        self.engine.script("interactions")
        self.engine.loader.execute("DROP TABLE read_places")
        self._count_interactions()
        self.accounts.say_or_refuse(self.splits, self.spec.max_lost_share)

    def _count_interactions(self) -> None:
        """The counts of the steps up to `interactions`, from the small tables that they left."""
        known = self._by_domain(
            "SELECT r.domain, sum(r.n), count(DISTINCT i.item) FROM read_items r "
            "JOIN item_numbers i ON r.domain = i.domain AND r.item_id = i.item_id GROUP BY r.domain",
            2,
        )
        left = self._by_domain("SELECT domain, sum(n), count(*) FROM user_counts GROUP BY domain", 2)
        duplicates = self._by_domain("SELECT domain, sum(n - 1) FROM ties GROUP BY domain")
        for domain, ((n_known, n_items), (n_left, n_users), (n_duplicates,)) in enumerate(
            zip(known, left, duplicates, strict=True)
        ):
            # None of these steps takes a user's last interaction with an item, so users and items stay as they are.
            self._count(domain, "with a known title", n_known, n_users, n_items)
            self._count(domain, "without exact duplicates", n_known - n_duplicates, n_users, n_items)
            self._count(domain, "without consecutive repeats", n_left, n_users, n_items)
            self.accounts.count_folded_interactions(self.engine, domain, n_duplicates, n_known - n_duplicates - n_left)
        for table in ("known", "ties", "item_numbers"):
            self.engine.execute(f"DROP TABLE {table}")
        for table in ("read_items", "read_users"):
            self.engine.loader.execute(f"DROP TABLE {table}")

    def _split(self) -> dict[str, dict[str, int]]:
        """Fix t1 and t2 a platform, then mark every interaction as training, validation or test."""
        times: dict[str, dict[str, int]] = {}
        for (platform,) in self.engine.rows(
            "SELECT DISTINCT platform FROM sources WHERE split = 'time' ORDER BY platform"
        ):
            t1, t2 = self._split_times(platform)
            times[platform] = {"t1": t1, "t2": t2}
            self.engine.loader.execute(
                f"UPDATE sources SET t1 = {t1}, t2 = {t2} WHERE platform = {quoted(platform)} AND split = 'time'"
            )
        self.engine.share("sources")
        self.engine.script("split")
        self._count_train("training period")
        self.training_repeats = self._training_repeats()
        if self.spec.exclude_test_users:
            self.engine.script("exclude_test_users")
            self._count_train("training period without test users")
        return times

    def _training_repeats(self) -> list[int]:
        """How often, by domain, a user meets an item again in the training period."""
        repeats = [0] * len(self.spec.sources)
        for part in range(SLICES):
            again = (
                f"SELECT item, count(*) - 1 AS n FROM train WHERE user % {SLICES} = {part} GROUP BY user, item HAVING "
                f"count(*) > 1"
            )
            found = self._by_domain(
                f"SELECT c.domain, sum(r.n) FROM ({again}) AS r JOIN catalogue c ON r.item = c.item GROUP BY c.domain"
            )
            repeats = [before + n for before, (n,) in zip(repeats, found, strict=True)]
        return repeats

    def _split_times(self, platform: str) -> tuple[int, int]:
        if platform in self.spec.times:
            return self.spec.times[platform].seconds
        of_platform = (
            f"FROM interactions i JOIN sources s ON i.domain = s.domain WHERE s.split = 'time' AND s.platform = "
            f"{quoted(platform)}"
        )
        if self.engine.value(f"SELECT count(*) {of_platform} AND s.role = 'downstream'"):
            of_platform += " AND s.role = 'downstream'"
        n = self.engine.value(f"SELECT count(*) {of_platform}")
        if not n:
            raise UserError(f"config.corpus.times: platform {platform!r} has no interactions left to take quantiles of")
        t1, t2 = (
            self.engine.value(f"SELECT i.time {of_platform} ORDER BY i.time LIMIT 1 OFFSET {int(q * n)}")
            for q in self.spec.quantiles
        )
        if t1 == t2:
            say(
                f"platform {platform}: both split times are {t1}; there is no validation period (set "
                f"config.corpus.times.{platform})"
            )
        return t1, t2

    def _filter(self) -> None:
        """k-core on training interactions, round by round to the fixed point."""
        before = self.engine.value("SELECT sum(n) FROM users_left")
        rounds = 0
        while self.engine.value("SELECT max(k_core) FROM sources") > 1:
            self.engine.script("k_core_round")
            after = self.engine.value("SELECT sum(n) FROM users_left")
            rounds += 1
            if after == before:
                break
            before = after
        if rounds > 1:
            self.engine.script("k_core_end")
        self._count_train("after k-core")
        self.k_core_rounds = rounds
        for name, counts in self.counts.items():
            was, left = counts["training period"]["interactions"], counts["after k-core"]["interactions"]
            if left < was * MUCH_LOST:
                say(
                    f"{name}: the k-core filter leaves {left} of {was} training interactions; config.corpus.k_core = "
                    f"0 keeps all"
                )

    def _say_what_is_empty(self, times: Mapping[str, Mapping[str, int]]) -> None:
        """A line for every set with nothing to train on or nobody to test; a corpus with neither training nor targets
        is a `UserError`."""
        tested = self._by_domain(
            "SELECT domain, count(*) FILTER (WHERE phase = 2), count(*) FROM histories GROUP BY domain", 2
        )
        trained = [self.counts[source.name]["after k-core"]["interactions"] for source in self.spec.sources]
        nothing = not sum(trained) and not sum(n_targets for _, n_targets in tested)
        for source, n, (n_test, _) in zip(self.spec.sources, trained, tested, strict=True):
            missing = [what for what, number in (("training interactions", n), ("test users", n_test)) if not number]
            if missing and not nothing:
                say(f"{source.name}: no {' and no '.join(missing)} ({self._split_of(source, times)})")
        if nothing:
            splits = ", ".join(
                f"{source.name} ({self._split_of(source, times)})" for source in self.spec.sources[:SAMPLES]
            )
            raise UserError(
                "config.corpus: neither a training interaction nor a target is left; "
                f"check times (or quantiles), k_core and min_history: {splits}"
            )

    def _split_of(self, source: SourceSpec, times: Mapping[str, Mapping[str, int]]) -> str:
        """For messages: how a set was split, and what times its interactions have."""
        domain = self.spec.sources.index(source)
        split = self.engine.value(f"SELECT split FROM sources WHERE domain = {domain}")
        first, last = self.engine.rows(f"SELECT min(time), max(time) FROM interactions WHERE domain = {domain}")[0]
        if first is None:
            return "no interaction is left after cleaning"
        if split != "time":
            return "split leave_one_out"
        t1, t2 = times[source.platform]["t1"], times[source.platform]["t2"]
        return f"t1 = {t1}, t2 = {t2}, its interactions are of {first} to {last}"

    def _count_train(self, step: str) -> None:
        users = self._by_domain("SELECT domain, sum(n), count(*) FROM users_left GROUP BY domain", 2)
        items = self._by_domain("SELECT domain, count(*) FROM items_left GROUP BY domain")
        for domain, ((n, n_users), (n_items,)) in enumerate(zip(users, items, strict=True)):
            self._count(domain, step, n, n_users, n_items)

    def _count(self, domain: int, step: str, interactions: int, users: int, items: int) -> None:
        self.counts[self.spec.sources[domain].name][step] = {
            "interactions": interactions,
            "users": users,
            "items": items,
        }

    def _by_domain(self, query: str, width: int = 1) -> list[list[int]]:
        """The numbers of a query for `domain` and `width` numbers, one row a domain; zeros where a domain has none."""
        found = {domain: [int(number) for number in numbers] for domain, *numbers in self.engine.rows(query)}
        return [found.get(domain, [0] * width) for domain in range(len(self.spec.sources))]

    def _reject(self, reason: str, query: str, count: str | None = None) -> None:
        """Count what a one-column query names as refused for `reason`; `count` is a cheaper query for how many there
        are."""
        n = self.engine.value(count or f"SELECT count(*) FROM ({query}) AS refused")
        if n:
            self.rejects.count(reason, n, [row[0] for row in self.engine.rows(f"{query} ORDER BY 1 LIMIT {SAMPLES}")])

    def _manifest(self, orders: list[Order], times: dict[str, dict[str, int]]) -> dict[str, Any]:
        spec = self.spec
        return {
            "domains": [source.name for source in spec.sources],
            "n_items": self.engine.value("SELECT count(*) FROM catalogue"),
            "sources": {
                source.name: self._source_entry(domain, orders[domain]) for domain, source in enumerate(spec.sources)
            },
            "sets": self._set_entries(),
            "times": times,
            "filters": {
                "k_core": {s.name: spec.k_core_of(s) for s in spec.sources},
                "k_core_rounds": self.k_core_rounds,
                "min_history": spec.min_history,
            },
            "seed": spec.seed,
            "counts": self.counts,
            "mixed": self._mixed_entry(),
            "rejected": self.rejects.as_dict(),
            "losses": self.accounts.as_dict(),
            "titles": {
                "policy": spec.titles.policy,
                "max_length": spec.titles.max_length,
                "appended": self.appended,
                **dict(sorted(self.title_counts.items())),
            },
        }

    def _source_entry(self, domain: int, order: Order) -> dict[str, Any]:
        source = self.spec.sources[domain]
        paths = self.adapters[source.adapter].files(source)
        return {
            "role": source.role,
            "adapter": source.adapter,
            "platform": source.platform,
            "order": order,
            "rows": self.rows[domain],
            "files": {which: {"path": str(path)} for which, path in paths.items()},
        }

    def _set_entries(self) -> dict[str, dict[str, Any]]:
        """What the manifest says of every domain as a set to evaluate on."""
        by_phase = "count(*) FILTER (WHERE phase = 2), count(*) FILTER (WHERE phase = 1)"
        items = self._by_domain("SELECT domain, count(*) FROM catalogue GROUP BY domain")
        kept = self._by_domain(
            f"SELECT domain, {by_phase}, count(*) FILTER (WHERE phase = 2 AND untied) FROM histories GROUP BY domain",
            width=3,
        )
        available = self._by_domain(f"SELECT domain, {by_phase} FROM targets GROUP BY domain", width=2)
        cold = self._by_domain(
            "SELECT h.domain, count(*) FROM histories h LEFT JOIN train_counts c ON h.target = c.item "
            "WHERE h.phase = 2 AND c.item IS NULL GROUP BY h.domain"
        )
        short = self._by_domain(
            f"SELECT domain, count(*) FROM firsts WHERE phase = 2 AND place <= {self.spec.min_history} GROUP BY domain"
        )
        single = self._by_domain("SELECT domain, count(*) FROM user_counts WHERE n = 1 GROUP BY domain")
        splits = dict(self.engine.rows("SELECT domain, split FROM sources"))
        entries = {}
        for domain, source in enumerate(self.spec.sources):
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
                "n_training_repeats": self.training_repeats[domain],
                "repeats": self.training_repeats[domain] > 0,
                "too_small": n_test < SMALL_SET,
            }
        return entries

    def _mixed_entry(self) -> dict[str, Any]:
        left_out = self.engine.rows(
            "SELECT name FROM sources WHERE role = 'pretrain' AND item_order = 'position' ORDER BY domain"
        )
        users, interactions = self.engine.rows(
            "SELECT count(*), coalesce(sum(array_length(events)), 0) FROM mixed_sequences"
        )[0]
        return {
            "users": users,
            "interactions": int(interactions),
            "left out (order only)": [name for (name,) in left_out],
        }
