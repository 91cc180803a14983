"""Job `generate`: text, or ranked titles, after a prompt, a history, or the histories of users. For people to look at
what a model writes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cprec_jax.config.build import nearest
from cprec_jax.config.generate import GenerateSpec
from cprec_jax.config.root import Config
from cprec_jax.corpus import Corpus, user_key
from cprec_jax.errors import UserError, one_line
from cprec_jax.inference.generate import generate as generate_tokens
from cprec_jax.inference.title_ranker import TitleRanker
from cprec_jax.jobs.making.model_source import Source, open_source
from cprec_jax.paths import local_path
from cprec_jax.progress import say
from cprec_jax.text.catalogue import Catalogue
from cprec_jax.workdir import corpus_directory

ASK = "--prompt=TEXT, --history='TITLE | TITLE' or --user=ID"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line gives. Exactly one of `prompt`, `history` and `user` is given.

    model: a Hugging Face directory or hub id instead of the work directory's checkpoint. set: whose titles are ranked,
    and the scope that a history's header names. `prompt=@FILE` and `history=@FILE` hold one a line. A history is `TITLE
    | TITLE`, or a JSON list of titles that may hold a `|`. `user` is ID or ID,ID (or a JSON list), each the raw id of
    the source or the number in ranks.parquet.
    """

    model: str | None = None
    prompt: str | None = None
    history: str | None = None
    user: str | None = None
    set: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("prompt", "history", "user") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UserError(f"generate: give exactly one of {ASK} (now: {', '.join(given) or 'none'})")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt. `title` is printed above its answer; `seen` are titles that are no candidates; `target` is what came
    next."""

    title: str
    tokens: np.ndarray
    seen: frozenset[str] = frozenset()
    target: str | None = None


def generate(config: Config, workdir: Path | None, request: Request) -> None:
    """Print what the model says, on standard output."""
    spec = config.generate
    output = spec.output or ("text" if request.prompt is not None else "titles")
    corpus = (
        Corpus.open(corpus_directory(workdir)) if workdir is not None and corpus_directory(workdir).exists() else None
    )
    if corpus is None and (request.user is not None or output == "titles"):
        raise UserError(
            "generate: ranked titles and --user need a corpus; give the --workdir it was prepared in (or output='text')"
        )
    set_name = _set_name(request, corpus, output)
    lines = _lines(request)  # before the model is loaded: a mistake in them shows at once
    source = open_source(config.text.template, spec, workdir, request.model)
    say(f"generate: {source.name}")
    if request.prompt is not None:
        questions = [Question(title=f"prompt: {line!r}", tokens=source.encode(line)) for line in lines]
    elif request.history is not None:
        questions = [_from_history(source, spec, set_name, corpus, line) for line in lines]
    else:
        assert corpus is not None
        questions = _from_users(source, spec, set_name, corpus, lines)
    if output == "text":
        _write_text(source, spec, questions)
    else:
        assert corpus is not None
        _write_titles(source, spec, set_name, corpus, questions)


def _lines(request: Request) -> list[str]:
    """The prompts, histories or user ids that were given; none is empty."""
    name = next(name for name in ("prompt", "history", "user") if getattr(request, name) is not None)
    text = getattr(request, name)
    if name == "user":
        lines = _json_list("user", text) or [part.strip() for part in text.split(",")]
    elif text.startswith("@"):
        try:
            lines = local_path(text[1:], f"--{name}").read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--{name}={text}: cannot be read ({one_line(error)})") from error
        lines = [line for line in lines if line.strip()]
    else:
        lines = [text]
    if not lines or not all(line.strip() for line in lines):
        raise UserError(f"--{name}={text}: is empty; give {ASK}")
    return lines


def _set_name(request: Request, corpus: Corpus | None, output: str) -> str:
    """The set that was named, or the only one there is; without a corpus any name will do as a scope."""
    if request.prompt is not None and output == "text":
        return ""
    if corpus is None:
        if request.set is None:
            raise UserError("generate: --set=NAME is missing: the domain that the history's header names")
        return request.set
    if request.set is not None:
        return corpus.set_info(request.set).name
    if len(corpus.sets) > 1:
        raise UserError(f"generate: --set=NAME is missing{nearest('', corpus.sets)}")
    return next(iter(corpus.sets))


def _from_history(source: Source, spec: GenerateSpec, set_name: str, corpus: Corpus | None, line: str) -> Question:
    titles = [" ".join(title.split()) for title in _json_list("history", line) or line.split("|")]
    if not all(titles):
        raise UserError(f"--history={line}: an empty title; write 'TITLE | TITLE', or a JSON list of titles")
    if corpus is not None:
        known = {corpus.items.title[item] for item in corpus.catalogue(set_name)}
        unknown = [title for title in titles if title not in known]
        if unknown:
            say(f"generate: not in the catalogue of {set_name}, and read as plain text: {'; '.join(unknown)}")
    return _question(source, spec, set_name, corpus, titles, f"{set_name}: {_joined(titles)}", None)


def _json_list(option: str, text: str) -> list[str] | None:
    """The strings of a JSON list; None where the text is not meant as one: a title may begin with a bracket."""
    if not text.strip().startswith('["'):
        return None
    try:
        titles = json.loads(text)
    except ValueError as error:
        raise UserError(f"--{option}={text}: begins as a JSON list, but is none ({one_line(error)})") from error
    if not all(isinstance(entry, str) for entry in titles):
        raise UserError(f"--{option}={text}: a JSON list of texts was expected")
    return titles


def _joined(titles: Sequence[str]) -> str:
    """Titles as `--history` takes them."""
    return json.dumps(list(titles), ensure_ascii=False) if any("|" in title for title in titles) else " | ".join(titles)


def _from_users(
    source: Source, spec: GenerateSpec, set_name: str, corpus: Corpus, lines: Sequence[str]
) -> list[Question]:
    targets = corpus.targets(spec.split, set_name)
    if not len(targets):
        raise UserError(f"generate: set {set_name} has no users in its {spec.split} split")
    title = corpus.items.title
    questions = []
    for line in lines:
        rows = np.flatnonzero(np.isin(targets.user, _user_numbers(corpus, set_name, line)))
        if not len(rows):
            raise UserError(
                f"--user={line}: no such user in the {spec.split} split of {set_name}; give an id of its source, or a "
                "number from "
                f"results/*/ranks.parquet (for example {targets.user[0]})"
            )
        for row in rows:
            history = [title[item] for item in targets.items[targets.offsets[row] : targets.offsets[row + 1]]]
            what = f"{set_name}, user {line}: {_joined(history)}"
            questions.append(_question(source, spec, set_name, corpus, history, what, title[targets.target[row]]))
    return questions


def _user_numbers(corpus: Corpus, set_name: str, text: str) -> list[int]:
    """What the corpus may call a user: the number of a raw id of the set's source, and a number itself."""
    platform = corpus.manifest.get("sources", {}).get(set_name, {}).get("platform")
    numbers = [] if platform is None else [user_key(platform, text)]
    if text.isascii() and text.isdigit() and len(text) <= 18:  # 60 bits
        numbers.append(int(text))
    return numbers


def _question(
    source: Source,
    spec: GenerateSpec,
    set_name: str,
    corpus: Corpus | None,
    titles: list[str],
    what: str,
    target: str | None,
) -> Question:
    """The template's prompt. As in evaluation, the history is no candidate where no user of the set meets an item
    twice."""
    catalogue = Catalogue.build(source.tokenizer, titles, source.template.spec.end_of_item)
    prompt = source.template.prompt(
        set_name, np.arange(len(titles)), catalogue, min(spec.prompt_tokens, source.context)
    )
    if titles and prompt.dropped_items == len(titles):  # without a history the header alone is asked, as in evaluation
        raise UserError(
            f"config.generate.prompt_tokens: {spec.prompt_tokens} hold not one title of the history; give more"
        )
    if prompt.dropped_items:
        what += f" (the oldest {prompt.dropped_items} do not fit {spec.prompt_tokens} tokens and were left out)"
    masked = corpus is not None and not corpus.set_info(set_name).repeats
    return Question(title=what, tokens=prompt.tokens, seen=frozenset(titles) if masked else frozenset(), target=target)


def _write_text(source: Source, spec: GenerateSpec, questions: Sequence[Question]) -> None:
    longest = max(len(question.tokens) for question in questions)
    if min(len(question.tokens) for question in questions) == 0:
        raise UserError("--prompt: the tokenizer makes no token of it")
    if longest + spec.new_tokens > source.context:
        raise UserError(
            f"config.generate.new_tokens: {spec.new_tokens} after a prompt of {longest} tokens exceed the model's "
            "context of "
            f"{source.context}; shorten one of them"
        )
    texts = generate_tokens(
        source.decoder,
        source.params,
        [question.tokens for question in questions],
        new_tokens=spec.new_tokens,
        end_ids=source.end_ids,
        temperature=spec.temperature,
        seed=spec.seed,
        batch=spec.batch,
    )
    for question, tokens in zip(questions, texts, strict=True):
        ended = len(tokens) > 0 and int(tokens[-1]) in source.end_ids
        print(question.title)
        print(source.tokenizer.decode(tokens[:-1] if ended else tokens))
        print(f"-- {len(tokens)} tokens, {'ended by the model' if ended else 'cut at new_tokens'}\n", flush=True)


def _write_titles(
    source: Source, spec: GenerateSpec, set_name: str, corpus: Corpus, questions: Sequence[Question]
) -> None:
    """The distribution over the set's catalogue (rule `trie`), best first: of all titles, or of those a beam
    reaches."""
    titles = [corpus.items.title[item] for item in corpus.catalogue(set_name)]
    catalogue = Catalogue.build(source.tokenizer, titles, source.template.spec.end_of_item)
    longest = max(len(question.tokens) for question in questions) + int(catalogue.lengths.max())
    if longest > source.context:
        raise UserError(
            f"config.generate.prompt_tokens: a prompt and a title take {longest} tokens, the model's context is "
            f"{source.context}; "
            f"use at most {source.context - int(catalogue.lengths.max())}"
        )
    ranker = TitleRanker(source.decoder, source.params, catalogue, spec.title_temperature, spec.beam)
    for question in questions:  # one at a time: the nodes of a large trie fill the batch already
        masked = np.array([title in question.seen and title != question.target for title in titles])
        target = None if question.target is None else titles.index(question.target)
        wanted = [] if target is None else [target]
        log_probs = ranker.log_probs(question.tokens, spec.titles + int(masked.sum()), wanted)
        shown = np.where(masked, -np.inf, log_probs)
        order = np.argsort(-shown, kind="stable")[: min(spec.titles, int((shown != -np.inf).sum()))]
        print(question.title)
        for rank, column in enumerate(order, start=1):
            print(f"{rank:4d}  {np.exp(log_probs[column]):8.4f}  {titles[column]}")
        left_out = f", {masked.sum()} of the history left out" if masked.any() else ""
        if spec.beam is not None:
            left_out += f"; by a beam of {spec.beam}, which may miss titles"
        if target is not None:
            rank = 1 + int((shown > shown[target]).sum())
            print(
                f"-- next was {question.target!r}: place {rank} of {int((~masked).sum())}, "
                f"{np.exp(log_probs[target]):.4f}{left_out}\n"
            )
        else:
            print(f"-- {len(titles)} titles{left_out}\n", flush=True)
