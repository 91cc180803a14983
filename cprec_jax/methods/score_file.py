"""Scores of another system as a method. Files that would rank users by chance, or by a leak, are refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from cprec_jax.config.build import nearest
from cprec_jax.corpus import Corpus, user_key
from cprec_jax.errors import UserError, one_line
from cprec_jax.evaluate.eval_set import EvalSet
from cprec_jax.evaluate.method import Scored, user_batches
from cprec_jax.progress import say

NUMBERS, RAW_IDS, SET = ("user", "item"), ("user_id", "item_id"), "set"
KINDS = (".parquet", ".csv", ".tsv", ".tab")
FEWEST_FOR_A_LEAK = 10  # users: fewer may all have a scored target by chance
# Share of users whose target has a score, where most items have none; another system may lack an item or two.
SUSPICIOUS = 0.95


class ScoreFile:
    """Scores of another system: a table (Parquet, CSV or TSV) `user_id, item_id, score` with the ids of the sources, or
    `user, item, score` with the numbers of the corpus's own files. Ids that more than one set of a platform has need a
    column `set` as well.

    Items a user has no score for rank below all that have one, and tie. A file that scores sampled candidates alone is
    ranked by their protocols alone: by `full` the target would beat whatever has no score. A user of the set without
    any score for its catalogue is a `UserError`; so are empty cells, scores that are not finite, pairs given twice, and
    a file of few items per user that hold every target. There is no distribution, so no NLL.
    """

    def __init__(self, path: Path, corpus: Corpus):
        self._path, self._corpus = path, corpus
        table = _read_table(path)
        raw = RAW_IDS[0] in table.column_names and NUMBERS[0] not in table.column_names
        self._columns = RAW_IDS if raw else NUMBERS
        for column in (*self._columns, "score"):
            self._check_column(table, column)
        self._ids: tuple[list[str], list[str]] | None = None  # of users and items, in the order of their codes
        if raw:
            (user, users), (item, items) = (self._encoded(table[column]) for column in RAW_IDS)
            self._ids = users, items
        else:
            user, item = (self._numbers(table[column]) for column in NUMBERS)
        score = self._numbers(table["score"], pa.float64())
        if not np.isfinite(score).all():
            row = int(np.flatnonzero(~np.isfinite(score))[0])
            who = f"user {self._name(user[row], 0)}, item {self._name(item[row], 1)}"
            raise UserError(f"{path}: row {row + 1}: score {score[row]} of {who}; scores must be finite")
        if not len(score):
            raise UserError(f"{path}: holds no scores")
        self._sets: list[str] | None = None  # names, in the order of their codes
        of_set = np.zeros(len(score), np.int64)
        if raw and SET in table.column_names:
            self._check_column(table, SET)
            of_set, self._sets = self._encoded(table[SET])
        order = np.lexsort((of_set, item, user))
        self._user, self._item, self._score, self._set = (values[order] for values in (user, item, score, of_set))
        twice = (np.diff(self._user) == 0) & (np.diff(self._item) == 0) & (np.diff(self._set) == 0)
        if twice.any():
            row = int(np.flatnonzero(twice)[0])
            pair = self._name(self._user[row], 0), self._name(self._item[row], 1)
            raise UserError(f"{path}: user {pair[0]} has two scores for item {pair[1]}; give one")
        self._say_unknown_items()
        self._facts: dict[str, Any] = {}

    def score(self, data: EvalSet) -> Iterator[Scored]:
        user, item, score = self._of_set(data)
        first, last = (np.searchsorted(user, data.targets.user, side=side) for side in ("left", "right"))
        if (first == last).any():
            self._refuse_missing_users(data, first == last)
        others = len(user) - int((last - first).sum())
        columns, scores = [], []
        for row, (start, stop) in enumerate(zip(first, last, strict=True)):
            column = np.minimum(np.searchsorted(data.items, item[start:stop]), len(data.items) - 1)
            of_set = data.items[column] == item[start:stop]  # a file may hold several sets
            if not of_set.any():  # the user would be ranked like chance: numbers of another corpus?
                raise UserError(
                    f"{self._path}: user {data.targets.user[row]} has scores, but for no item of set {data.name}; "
                    f"{self._hint()} "
                    f"(numbers of its catalogue: {data.items[0]} to {data.items[-1]})"
                )
            columns.append(column[of_set])
            scores.append(score[start:stop][of_set])
        missing = len(data) * len(data.items) - sum(map(len, columns))
        try:
            sampled = _protocols_scored(data, columns) if missing else None
        except UserError as error:
            raise UserError(f"{self._path}: {error}") from None
        self._facts = {"scored_candidates_of": sampled} if sampled else {"pairs_without_score": missing}
        if others:
            self._facts["rows_of_other_users"] = others
            say(
                f"evaluate: {data.name}: {self._path}: {others:,} rows are of users that are not evaluated here; they "
                "are left out"
            )
        if sampled:
            say(
                f"evaluate: {data.name}: {self._path} scores the candidates of {', '.join(sampled)} alone, so it is "
                "ranked by them alone"
            )
        elif missing:
            self._refuse_a_leak(data, columns)
            pairs = len(data) * len(data.items)
            say(
                f"evaluate: {data.name}: {self._path} has no score for {missing:,} of {pairs:,} pairs of user and "
                "item; they tie last"
            )
        lowest = np.nextafter(self._score.min(), -np.inf)  # what is missing ties below everything
        for users in user_batches(len(data)):
            table = np.full((len(users), len(data.items)), lowest)
            for row, user_row in enumerate(users):
                table[row, columns[user_row]] = scores[user_row]
            if sampled:
                by_protocol = {
                    name: np.take_along_axis(table, data.candidates[name][users], axis=1) for name in sampled
                }
                yield Scored(users=users, scores=None, log_probs=None, by_protocol=by_protocol)
            else:
                yield Scored(users=users, scores=table, log_probs=None)

    def facts(self) -> dict[str, Any]:
        return self._facts

    def _check_column(self, table: pa.Table, column: str) -> None:
        if (count := table.column_names.count(column)) != 1:
            problem = f"{'two columns' if count else 'no column'} {column!r}"
            raise UserError(
                f"{self._path}: {problem}; a file of scores has user_id, item_id and score (ids of the sources) or "
                "user, item and score "
                f"(numbers of the corpus) once (found {table.column_names})"
            )
        values = table[column]
        empty = values.is_null().to_numpy()
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            empty |= pc.equal(values, "").fill_null(True).to_numpy()
        if empty.any():
            row = int(np.flatnonzero(empty)[0])
            raise UserError(f"{self._path}: row {row + 1}: {column} is empty or NaN; leave such rows out, or fill them")

    def _numbers(self, column: pa.ChunkedArray, dtype: pa.DataType | None = None) -> np.ndarray:
        try:
            return column.cast(dtype or pa.int64()).to_numpy()
        except pa.ArrowException as error:
            raise UserError(
                f"{self._path}: user and item must be the corpus's numbers, score a number ({one_line(error)[:120]}); "
                "name the columns user_id and item_id where they hold the ids of the sources"
            ) from error

    def _encoded(self, column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
        """(codes int64[n], the text of each code). Encoded before chunks are combined: together they may hold more than
        2 GiB of text."""
        try:
            text = (
                column
                if pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
                else column.cast(pa.string())
            )
            encoded = text.dictionary_encode().unify_dictionaries().combine_chunks()
            if isinstance(encoded, pa.ChunkedArray):  # of no chunks
                encoded = pa.array([], pa.string()).dictionary_encode()
            return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise UserError(
                f"{self._path}: user_id, item_id and set must be texts or numbers ({one_line(error)[:120]})"
            ) from error

    def _name(self, code: int, which: int) -> object:
        return code if self._ids is None else self._ids[which][code]

    def _hint(self) -> str:
        if self._ids is not None:
            return "`user_id` and `item_id` must be those of the set's source"
        return "`user` and `item` must be the corpus's numbers"

    def _say_unknown_items(self) -> None:
        """Rows whose item no set has are left out, which is said once."""
        if self._ids is None:
            unknown = (self._item < 0) | (self._item >= self._corpus.manifest["n_items"])
        else:
            known = set(self._corpus.item_ids)
            unknown = np.array([item not in known for item in self._ids[1]])[self._item]
        if unknown.any():
            example = self._name(self._item[np.argmax(unknown)], 1)
            say(
                f"evaluate: {self._path}: {int(unknown.sum()):,} rows are of items that no set has (such as "
                f"{example}); they are left out"
            )

    def _of_set(self, data: EvalSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The file's rows with the corpus's numbers, by user and item."""
        if self._ids is None:
            return self._user, self._item, self._score
        platform = self._corpus.manifest["sources"][data.name]["platform"]
        ids = self._corpus.item_ids
        number = {ids[item]: item for item in data.items}
        users = np.array([user_key(platform, name) for name in self._ids[0]])
        items = np.array([number.get(name, -1) for name in self._ids[1]])
        item = items[self._item]
        if self._sets is None:
            self._refuse_ambiguous_ids(data, platform)
            of_set = item >= 0
        else:
            of_set = (item >= 0) & (self._set == (self._sets.index(data.name) if data.name in self._sets else -1))
        return _sorted(users[self._user[of_set]], item[of_set], self._score[of_set])

    def _refuse_ambiguous_ids(self, data: EvalSet, platform: str) -> None:
        """Where sources number their items alike, scores made for one set would rank another as well."""
        assert self._ids is not None
        ids, sources = self._corpus.item_ids, self._corpus.manifest["sources"]
        of_file = {ids[item] for item in data.items} & set(self._ids[1])
        for name in self._corpus.sets:
            if name != data.name and sources[name]["platform"] == platform:
                shared = of_file & {ids[item] for item in self._corpus.catalogue(name)}
                if shared:
                    raise UserError(
                        f"{self._path}: {len(shared):,} of its item ids, such as {min(shared)!s:.40}, are in set "
                        f"{data.name} and in set "
                        f"{name}; add a column {SET!r} that says which of them a score is for"
                    )

    def _refuse_missing_users(self, data: EvalSet, missing: np.ndarray) -> None:
        """Users without a score: how many, one of them, and one of the file's own, since ids that differ by a letter
        look like nobody's."""
        example = data.targets.user[np.flatnonzero(missing)[0]]
        raise UserError(
            f"{self._path}: no score for {int(missing.sum()):,} of {len(data):,} {data.split} users of set "
            f"{data.name}, such as the "
            f"corpus's user {example}; the file has {self._columns[0]} {self._name(self._user[0], 0)!s:.40}. "
            f"{self._hint()}; a file of "
            f"some sets alone needs their names in config.evaluate.sets, such as ('{data.name}',)"
        )

    def _refuse_a_leak(self, data: EvalSet, columns: list[np.ndarray]) -> None:
        """Every target among few scored items: the file was made for candidates, whose other items would all rank below
        the target."""
        share = sum(map(len, columns)) / (len(data) * len(data.items))
        if len(data) < FEWEST_FOR_A_LEAK or share > 0.5:
            return
        scored = np.mean([(target == column).any() for target, column in zip(data.target, columns, strict=True)])
        if scored >= SUSPICIOUS:
            raise UserError(
                f"{self._path}: set {data.name}: only {share:.1%} of its items have a score, but the targets of "
                f"{scored:.1%} of the users; "
                "what has no score would rank below the target. Score the whole catalogue, or exactly the candidates "
                "of "
                "WORKDIR/corpus/candidates and ask for them in config.evaluate.protocols"
            )


def _protocols_scored(data: EvalSet, columns: list[np.ndarray]) -> list[str]:
    """Protocols whose candidates all have scores, if no user has a score for anything but candidates; else none.

    Scores for nothing but candidates, and for no protocol all of them, are a `UserError`: the whole catalogue cannot be
    ranked by them.
    """
    complete = dict.fromkeys(data.candidates, True)
    for row, column in enumerate(columns):
        rest = np.zeros(len(data.items), bool)
        rest[column] = True
        for name, candidates in data.candidates.items():
            complete[name] &= bool(np.isin(candidates[row], column).all())
        for candidates in data.candidates.values():
            rest[candidates[row]] = False
        if rest.any():
            return []
    if complete and not any(complete.values()):
        raise UserError(
            f"set {data.name}: has scores for candidates of {', '.join(complete)} alone, but for no protocol of them "
            "all; score all of its "
            "candidates, or the whole catalogue"
        )
    return [name for name, all_of_them in complete.items() if all_of_them]


def _sorted(user: np.ndarray, item: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = np.lexsort((item, user))
    return user[order], item[order], score[order]


def check_header(path: Path) -> None:
    """Checks a file of scores without reading its rows: it is there, of a kind that is read, and has the columns."""
    _check_kind(path)
    try:
        if path.suffix == ".parquet":
            names = pq.read_schema(path).names
        else:
            with pa.input_stream(path, compression="detect") as stream:
                block = stream.read(1 << 20)
            first = block.split(b"\n")[0].decode("utf-8-sig").rstrip("\r")
            kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
            names = [name.strip('"') for name in first.split("\t" if kind in (".tsv", ".tab") else ",")]
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)[:160]})") from error
    wanted = RAW_IDS if RAW_IDS[0] in names and NUMBERS[0] not in names else NUMBERS
    for column in (*wanted, "score"):
        if column not in names:
            raise UserError(
                f"{path}: no column {column!r}{nearest(column, names)}; a file of scores has user_id, item_id, score, "
                "or user, item, score"
            )


def _check_kind(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: no such file of scores; check `path` in config.evaluate.names")
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind not in KINDS:
        raise UserError(
            f"{path}: the ending says what a file of scores is: {', '.join(KINDS)}, and .gz behind but the first"
        )
    return kind


def _read_table(path: Path) -> pa.Table:
    kind = _check_kind(path)
    try:
        if kind == ".parquet":
            table = pq.read_table(path, partitioning=None)  # nothing is read out of the names of folders
            _ = table.column_names  # decodes them
            return table
        delimiter = "\t" if kind in (".tsv", ".tab") else ","
        texts = pa_csv.ConvertOptions(column_types=dict.fromkeys((*RAW_IDS, SET), pa.string()))  # 007 is not 7
        table = pa_csv.read_csv(path, parse_options=pa_csv.ParseOptions(delimiter=delimiter), convert_options=texts)
        _ = table.column_names
        return table
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)[:160]})") from error
