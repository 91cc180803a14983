"""What became of every source's interactions and items: how many were read and kept, what was lost for which reason,
and why.

What was refused is lost, and the rest is kept. Of what is kept some is folded into something else, as exact duplicates
are: that is counted, too, and is no loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cprec_jax.errors import UserError
from cprec_jax.progress import say
from data_prep.engine import Engine, Relational, quoted
from data_prep.rejects import SAMPLES, Rejects, named
from data_prep.titles import NULL_WORDS

MENTIONED = 0.01  # of what was read: reasons from here on are named on the console
WARNED = 0.1
EMPTY = "the title is empty, or holds nothing that can be read"
NOT_LISTED = "the file of items does not list it: is it whole, and of the same release?"
UNTITLED, UNKNOWN = "item without a usable title", "interaction with an unknown item"
OF_UNTITLED = "interaction with an item that has no usable title"
OTHER_TITLES = "item listed again with another title"
FOLDED = ("item listed again", "item with another's title", "exact duplicate", "repeat of the item before")
CAUSES_OF_FOLDED = {
    FOLDED[0]: "the same id and title twice",
    FOLDED[2]: "the same user, item and time twice: were files joined that overlap, or times cut to days?",
    FOLDED[3]: "with nothing else between: a run of one item counts once",
}


@dataclass
class Losses:
    """One of the two tables of a source. `reasons` -> {"n", "share", "lost", "example", "cause"}; those of `FOLDED` are
    of what is kept."""

    read: int = 0
    reasons: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, reason: str, n: int, example: str = "", cause: str = "") -> None:
        if n:
            self.reasons[reason] = {"n": int(n), "share": 0.0, "example": example, "cause": cause}

    @property
    def lost(self) -> int:
        return sum(entry["n"] for reason, entry in self.reasons.items() if reason not in FOLDED)

    @property
    def kept(self) -> int:
        return self.read - self.lost

    @property
    def lost_share(self) -> float:
        return self.lost / self.read if self.read else 0.0

    def as_dict(self) -> dict[str, Any]:
        for reason, entry in self.reasons.items():
            entry["share"] = round(entry["n"] / max(self.read, 1), 6)
            entry["lost"] = reason not in FOLDED
        return {"read": self.read, "kept": self.kept, "lost_share": round(self.lost_share, 6), "reasons": self.reasons}


def with_bad_lines(n_rows: int, rejects: Rejects, source: str, which: str) -> Losses:
    """Of a table with `n_rows` rows that could be read: the lines that could not be are lost."""
    bad = rejects.lines_of.get((source, which), {})
    losses = Losses(read=n_rows + sum(entry["n"] for entry in bad.values()))
    for reason, entry in bad.items():
        losses.add(reason, entry["n"], entry["samples"][0] if entry["samples"] else "", entry["cause"])
    return losses


def sentence(name: str, split: str, interactions: Losses, items: Losses) -> str:
    """The line of one source on the console: read, kept, and each reason that has more than a hundredth, with an
    example and its cause."""
    parts = [f"{name} ({split}): {_counted(interactions, 'interactions')}; {_counted(items, 'items')}"]
    for folded in (False, True):
        for losses in (interactions, items):
            for reason, entry in losses.reasons.items():
                if entry["n"] > MENTIONED * losses.read and (reason in FOLDED) == folded:
                    notes = [
                        text
                        for text in (f"first {entry['example']}" if entry["example"] else "", entry["cause"])
                        if text
                    ]
                    brackets = f" ({'; '.join(notes)})" if notes else ""
                    count = f"{entry['n']:,} ({entry['n'] / losses.read:.1%}) {_plural(reason, entry['n'])}"
                    parts.append(f"{'kept but folded' if folded else 'lost'}: {count}{brackets}")
    return "; ".join(parts)


def _counted(losses: Losses, what: str) -> str:
    return f"{losses.read:,} {what} read, {losses.kept:,} kept"


def _plural(reason: str, n: int) -> str:
    for noun in ("interaction", "item", "exact duplicate", "repeat", "malformed line"):
        if n != 1 and reason.startswith(noun):
            return noun + "s" + reason.removeprefix(noun)
    return reason


def say_or_refuse(lines: Mapping[str, str], losses: Mapping[str, tuple[Losses, Losses]], max_lost_share: float) -> None:
    """Print the line of every source. More than `max_lost_share` of its interactions or items lost is a `UserError`
    with that line."""
    refused = []
    for name, line in lines.items():
        worst = max(account.lost_share for account in losses[name])
        if worst > max_lost_share:
            refused.append((name, worst))
        else:
            say(f"warning: {line}" if worst > WARNED else line)
    if refused:
        name, worst = refused[0]
        others = f" (and {', '.join(another for another, _ in refused[1:])})" if refused[1:] else ""
        raise UserError(
            f"config.corpus.sources: {worst:.1%} of {name}{others} is lost, more than config.corpus.max_lost_share = "
            f"{max_lost_share}: "
            f"{lines[name]}; mend the files, or raise the limit"
        )


# How an unknown id becomes a known one -> what happened to it. {id} is the column.
_CHANGES = {
    "ltrim({id}, '0')": "without their leading zeros, which a spreadsheet drops: export the ids as text",
    "regexp_replace({id}, '\\.0+$', '')": "without '.0', which pandas adds where ids are missing: write the ids as "
    "whole numbers",
    "trim({id}, ' ' || chr(9) || chr(160))": "without the blanks round them: take these out of the file",
    "trim({id}, '\"''')": "without quotation marks: set quote for that file",
    "lower({id})": "in other case: write them alike",
    "replace({id}, ',', '')": "without the commas between thousands: write the ids as plain numbers",
    "regexp_replace({id}, '^[A-Za-z]*[-_:]?0*', '')": "without the letters before the number: write them alike",
}
_SCIENTIFIC = r"[+-]?\d([.,]\d+)?[eE]\+?\d+"


def _cause_of_swapped_columns(loader: Engine, domain: int, n_unknown: int) -> str:
    """Where the users of the interactions are what the file of items lists."""
    users = (
        f"SELECT user_id, user FROM read_users WHERE domain = {domain} AND user_id IN (SELECT item_id FROM known_ids)"
    )
    swapped = loader.rows(
        f"SELECT count(*), min(u.user_id) FROM read_interactions r JOIN ({users}) AS u ON r.user = u.user WHERE "
        f"r.domain = {domain}"
    )[0]
    if swapped[0] > 0.5 * n_unknown:
        return f"user {named(swapped[1])} is an item of the file of items: are the columns of users and items swapped?"
    return ""


def cause_of_unknown(loader: Engine, domain: int) -> str:
    """Why items of the interactions are not in the file of items, where a look at the ids tells."""
    unknown = (
        f"(SELECT item_id, n FROM read_items WHERE domain = {domain} AND item_id NOT IN (SELECT item_id FROM "
        "known_ids))"
    )
    loader.execute(
        f"CREATE OR REPLACE TEMP TABLE known_ids AS SELECT DISTINCT item_id FROM clean_items WHERE domain = {domain}"
    )
    loader.execute(f"CREATE OR REPLACE TEMP TABLE unknown_ids AS SELECT * FROM {unknown}")
    total = loader.value("SELECT coalesce(sum(n), 0) FROM unknown_ids")
    cause = _cause_of_swapped_columns(loader, domain, total)
    for change, text in {} if cause else _CHANGES.items():
        known_id, unknown_id = change.format(id="k.item_id"), change.format(id="u.item_id")
        changed = f"SELECT {known_id} AS changed, min(k.item_id) AS item_id FROM known_ids k GROUP BY 1"
        known = f"({changed} HAVING changed <> '')"
        match = loader.rows(
            f"SELECT sum(u.n), min(u.item_id), arg_min(k.item_id, u.item_id) FROM unknown_ids u JOIN {known} AS k ON "
            f"{unknown_id} = k.changed"
        )[0]
        if match[0] and match[0] > 0.5 * total:
            cause = f"{named(match[1])} is {named(match[2])} among the items: the ids agree {text}"
            break
    if not cause and total:
        scientific = loader.rows(
            f"SELECT item_id FROM unknown_ids WHERE regexp_full_match(item_id, {quoted(_SCIENTIFIC)}) LIMIT 1"
        )
        example = loader.rows("SELECT min(item_id) FROM known_ids")[0][0]
        if scientific:
            cause = f"{named(scientific[0][0])} is what a spreadsheet leaves of a long number: export the ids as text"
        elif not loader.value(
            "SELECT count(*) FROM read_items r JOIN known_ids k ON r.item_id = k.item_id WHERE r.domain = "
            + str(domain)
        ):
            cause = (
                f"no id of the interactions is among the items, where ids are as {named(example)}: do both files "
                "belong together?"
            )
    loader.execute("DROP TABLE known_ids")
    loader.execute("DROP TABLE unknown_ids")
    return cause


def cause_of_other_titles(loader: Engine, domain: int) -> str:
    """Why one id has several titles."""
    repeated = (
        f"SELECT item_id FROM clean_items WHERE domain = {domain} GROUP BY item_id HAVING count(DISTINCT title) > 1"
    )
    where = f"WHERE regexp_full_match(item_id, {quoted(_SCIENTIFIC)})"
    scientific = loader.rows(f"SELECT min(item_id), count(*) FROM ({repeated}) AS r {where}")[0]
    if scientific[1]:
        return (
            f"ids such as {named(scientific[0])} are what a spreadsheet leaves of long numbers: export the ids as text"
        )
    return "are they ids of the items, or of something that several items share?"


def say_null_ids(loader: Engine, domain: int, name: str, n_interactions: int) -> None:
    """A line for ids such as `nan`, which stand for many users or items and are taken for one."""
    null_list = ", ".join(map(quoted, NULL_WORDS))
    for what, table, key in (("user", "read_users", "user"), ("item", "read_items", "code")):
        null = f"SELECT {what}_id, {key} FROM {table} WHERE domain = {domain} AND lower({what}_id) IN ({null_list})"
        if not loader.rows(f"{null} LIMIT 1"):
            continue
        of_these = f"read_interactions r JOIN ({null}) AS n ON r.{key} = n.{key} WHERE r.domain = {domain}"
        for text, n in loader.rows(f"SELECT n.{what}_id, count(*) FROM {of_these} GROUP BY 1 ORDER BY 1"):
            if n > MENTIONED * n_interactions:
                say(
                    f"{name}: {n:,} interactions have the {what} id {text!r}, taken for one {what}; if it means none, "
                    "leave such rows out"
                )


def _example_of_duplicate(engine: Relational, domain: int) -> str:
    first = engine.rows(f"SELECT min(user) FROM ties WHERE domain = {domain} AND n > 1")[0][0]
    twice = (
        f"SELECT item, time FROM ties WHERE domain = {domain} AND user = {first} AND n > 1 ORDER BY time, item LIMIT 1"
    )
    return _interaction(engine, domain, first, *engine.rows(twice)[0])


def _example_of_repeat(engine: Relational, domain: int) -> str:
    """The first interaction, duplicates apart, that a user has in `known` and not in `interactions`."""
    twice = f"(SELECT user, sum(n - 1) AS n FROM ties WHERE domain = {domain} GROUP BY user)"
    users = f"(SELECT user, count(*) AS n FROM known WHERE domain = {domain} GROUP BY user)"
    shorter = f"LEFT JOIN {twice} AS t ON k.user = t.user WHERE c.domain = {domain} AND k.n - coalesce(t.n, 0) > c.n"
    first = engine.value(f"SELECT min(k.user) FROM {users} AS k JOIN user_counts c ON k.user = c.user {shorter}")
    both = [
        f"SELECT item, time FROM {table} WHERE domain = {domain} AND user = {first}"
        for table in ("known", "interactions")
    ]
    return _interaction(
        engine, domain, first, *engine.rows(f"{both[0]} EXCEPT {both[1]} ORDER BY time, item LIMIT 1")[0]
    )


def _interaction(engine: Relational, domain: int, user: int, item: int, time: int) -> str:
    user_id = engine.value(f"SELECT min(user_id) FROM read_users WHERE domain = {domain} AND user = {user}")
    item_id = engine.value(f"SELECT item_id FROM catalogue WHERE item = {item}")
    return f"user {named(user_id)}, item {named(item_id)}, {time}"


def say_decimal_ids(loader: Engine, domain: int, name: str) -> None:
    """A line where most ids are such as `12.0`: they are not those of another file or source that has `12`."""
    for what in ("user", "item"):
        such = f"regexp_full_match({what}_id, '\\d+\\.0+')"
        counts = f"count(*), count(*) FILTER (WHERE {such}), min({what}_id) FILTER (WHERE {such})"
        n, n_such, example = loader.rows(f"SELECT {counts} FROM read_{what}s WHERE domain = {domain}")[0]
        if n_such > 0.5 * n:
            say(
                f"{name}: {what} ids are such as {example}, as pandas does where some are missing; write them as "
                "whole numbers"
            )


class Accounts:
    """The losses of all sources, filled in while the tables that show them are there: items first, then
    interactions."""

    def __init__(self, names: Sequence[str], rejects: Rejects):
        self.names, self.rejects = names, rejects
        self.items = [Losses() for _ in names]
        self.interactions = [Losses() for _ in names]

    def count_items(
        self, loader: Engine, null_words: Mapping[int, tuple[int, str]], n_ids: Sequence[int], n_merged: Sequence[int]
    ) -> None:
        """`null_words`: by domain how many titles are words for nothing, and one of them; ids with a title; items
        merged into others."""
        rows = {
            domain: numbers
            for domain, *numbers in loader.rows(
                "SELECT domain, count(*), count(title) FROM clean_items GROUP BY domain"
            )
        }
        for domain, name in enumerate(self.names):
            n_rows, n_titled = rows.get(domain, (0, 0))
            account = self.items[domain] = with_bad_lines(n_rows, self.rejects, name, "items")
            if n_titled < n_rows:
                example = loader.value(
                    f"SELECT min(item_id) FROM clean_items WHERE domain = {domain} AND title IS NULL"
                )
                n_null, word = null_words.get(domain, (0, ""))
                cause = (
                    f"{n_null:,} have the title {word!r}, which is none unless titles.keep_null_words says so"
                    if n_null
                    else EMPTY
                )
                account.add(UNTITLED, n_rows - n_titled, f"item {named(example)}", cause)
            again = n_titled - n_ids[domain]
            if again:
                pairs = f"SELECT DISTINCT item_id, title FROM clean_items WHERE domain = {domain} AND title IS NOT NULL"
                n_pairs = loader.value(f"SELECT count(*) FROM ({pairs}) AS p")
                if n_other_titles := n_pairs - n_ids[domain]:
                    several = (
                        f"SELECT min(item_id) FROM (SELECT item_id FROM ({pairs}) AS p GROUP BY item_id HAVING "
                        "count(*) > 1) AS q"
                    )
                    account.add(
                        OTHER_TITLES,
                        n_other_titles,
                        f"item {named(loader.value(several))}",
                        cause_of_other_titles(loader, domain),
                    )
                if same := n_titled - n_pairs:
                    listed = (
                        f"SELECT item_id FROM clean_items WHERE domain = {domain} AND title IS NOT NULL GROUP BY "
                        "item_id, title"
                    )
                    example = loader.value(f"SELECT min(item_id) FROM ({listed} HAVING count(*) > 1) AS l")
                    account.add(FOLDED[0], same, f"item {named(example)}", CAUSES_OF_FOLDED[FOLDED[0]])
            if n_merged[domain]:
                titles = f"SELECT title FROM clean_items WHERE domain = {domain} AND title IS NOT NULL GROUP BY title"
                example = loader.value(f"SELECT min(title) FROM ({titles} HAVING count(DISTINCT item_id) > 1) AS t")
                account.add(
                    FOLDED[1], n_merged[domain], repr(example), "titles.policy = 'distinguish' keeps them apart"
                )

    def count_refused_interactions(
        self, loader: Engine, rows: Sequence[int], untitled: Sequence[int], unknown: Sequence[int]
    ) -> None:
        """`rows` could be read; how many of them are of items without a title, and of items that no file lists."""
        for domain, name in enumerate(self.names):
            account = self.interactions[domain] = with_bad_lines(rows[domain], self.rejects, name, "interactions")
            of_item = self.items[domain].reasons.get(UNTITLED, {})
            account.add(OF_UNTITLED, untitled[domain], of_item.get("example", ""), of_item.get("cause", ""))
            if n := unknown[domain]:
                listed = f"SELECT item_id FROM clean_items WHERE domain = {domain}"
                example = loader.value(
                    f"SELECT min(item_id) FROM read_items WHERE domain = {domain} AND item_id NOT IN ({listed})"
                )
                cause = cause_of_unknown(loader, domain) if n > MENTIONED * account.read else ""
                if not cause and (
                    refused := sum(entry["n"] for entry in self.rejects.lines_of.get((name, "items"), {}).values())
                ):
                    cause = f"{refused:,} lines of the file of items were refused"
                account.add(UNKNOWN, n, f"item {named(example)}", cause or NOT_LISTED)

    def count_folded_interactions(self, engine: Relational, domain: int, duplicates: int, repeats: int) -> None:
        """Exact duplicates and repeats, while `known`, `ties` and `interactions` are there to take an example from."""
        account = self.interactions[domain]
        examples = {FOLDED[2]: _example_of_duplicate, FOLDED[3]: _example_of_repeat}
        for reason, n in ((FOLDED[2], duplicates), (FOLDED[3], repeats)):
            example = examples[reason](engine, domain) if n > MENTIONED * account.read else ""
            account.add(reason, n, example, CAUSES_OF_FOLDED[reason])

    def say_or_refuse(self, splits: Sequence[str], max_lost_share: float) -> None:
        """One line per source, `splits` in brackets behind its name. Too large a loss, or nothing left at all, is a
        `UserError`."""
        both = {name: (self.interactions[n], self.items[n]) for n, name in enumerate(self.names)}
        lines = {name: sentence(name, split, *both[name]) for name, split in zip(self.names, splits, strict=True)}
        if not any(account.kept for account in self.interactions):
            refused = ", ".join(f"{reason} ({entry['n']})" for reason, entry in self.rejects.as_dict().items())
            shown = "; ".join(list(lines.values())[:SAMPLES])
            raise UserError(
                f"config.corpus.sources: no interaction is left after cleaning; refused: {refused}; {shown}"
            )
        say_or_refuse(lines, both, max_lost_share)

    def as_dict(self) -> dict[str, Any]:
        """What the manifest says under `losses`."""
        return {
            name: {"interactions": self.interactions[n].as_dict(), "items": self.items[n].as_dict()}
            for n, name in enumerate(self.names)
        }
