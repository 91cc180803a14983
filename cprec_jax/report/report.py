"""Job `report`: everything a work directory has measured -> WORKDIR/report, and the main table on standard output."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cprec_jax.artefact import MANIFEST, new_directory, read_json, write_json, write_manifest
from cprec_jax.config.report import ReferenceRow
from cprec_jax.config.root import Config
from cprec_jax.errors import UserError
from cprec_jax.evaluate.intervals import WARM
from cprec_jax.evaluate.results import Result, read_results, without_score_note
from cprec_jax.json_object import Damaged, mapping, text
from cprec_jax.progress import say
from cprec_jax.report.card import card, card_markdown
from cprec_jax.report.corpus_summary import corpus_tables, loss_notes
from cprec_jax.report.entries import PRIMARY, ordered, with_random
from cprec_jax.report.goodput import goodput_line, goodput_section, read_ledgers
from cprec_jax.report.html import html_page
from cprec_jax.report.latex import latex
from cprec_jax.report.leak_table import leak_table
from cprec_jax.report.marks import significance_marks
from cprec_jax.report.render import csv_text, markdown, plain_text
from cprec_jax.report.set_facts import set_names, split_of
from cprec_jax.report.table import Section, Table
from cprec_jax.report.tables import (
    facts_table,
    forgetting_table,
    main_table,
    methods_table,
    overview_tables,
    protocol_table,
    slice_tables,
)
from cprec_jax.report.training_metrics import read_metrics
from cprec_jax.report.users import users_page
from cprec_jax.workdir import corpus_directory, report_directory, results_directory, rows_directory

LEGEND = (
    "Bold (starred in plain text): best of the measured methods; underlined: second; compared as printed. The oracle "
    "knows the true "
    "distribution of synthetic data and is an upper bound. † The best is better than the second with p < 0.05: paired "
    "randomisation test "
    "over users, Holm's correction over sets. NLL: mean negative log-likelihood of the target in nats, less is "
    "better. A result with exact "
    "ranks to config.evaluate.ranks_to alone has no MRR. In small print, or in brackets: 95 % bootstrap intervals."
)


def report(config: Config, workdir: Path, made_from: Mapping[str, Any]) -> None:
    """Write report.md, report.html, users.html, tables.csv, tables.tex, card.md, card.json and PNG plots; print the
    main table.

    Of the results of `config.evaluate.split`. Those of another corpus or protocol version than the newest are left out
    and named. No usable result at all, or a damaged one, is a `UserError`.
    """
    # matplotlib takes long to import, and model cards need this module without plots.
    from cprec_jax.report.plots import write_comparison, write_plots
    from cprec_jax.report.slice_plots import write_slice_plots

    spec, split = config.report, config.evaluate.split
    manifest = read_manifest(workdir)
    results, notes = load_results(workdir, manifest, spec.order, list(config.evaluate.names), split)
    labels = {name: row.label for name, row in config.evaluate.names.items() if row.label}
    results = [dataclasses.replace(result, name=labels.get(result.name, result.name)) for result in results]
    reference = spec.reference_rows()
    sets = set_names(results, manifest)
    notes += [
        f"config.report.reference.{name}: no result has this set; its rows are left out"
        for name in _unknown_sets(reference, sets)
    ]
    notes += _tokenizer_notes(workdir)
    significance = significance_marks(results, sets)
    main = [main_table(name, results, reference, manifest, significance) for name in sets]
    overview = overview_tables(sets, results, manifest, significance)
    intro = [*_intro(results, manifest), *loss_notes(manifest), *notes]
    ledgers = read_ledgers(workdir)
    parts = sections([*overview, *main], results, manifest)
    parts += [section for section in (goodput_section(ledgers),) if section.tables]
    target = report_directory(workdir, split)
    with new_directory(target) as directory:
        plots = {}
        if caption := write_comparison(directory / "hr10.png", results, sets):
            plots["hr10.png"] = caption
        plots |= write_plots(directory, read_metrics(workdir), results, sets)
        plots |= write_slice_plots(directory, workdir, results, sets)
        (directory / "report.md").write_text(markdown(spec.title, intro, parts, plots), encoding="utf-8")
        (directory / "report.html").write_text(html_page(spec.title, intro, parts, plots, directory), encoding="utf-8")
        (directory / "tables.tex").write_text(latex([*overview, *main]), encoding="utf-8")
        if page := users_page(spec.title, results, sets):
            (directory / "users.html").write_text(page, encoding="utf-8")
        (directory / "tables.csv").write_text(csv_text(results, reference, manifest, significance), encoding="utf-8")
        facts = card(manifest, results, workdir)
        write_json(directory / "card.json", facts)
        (directory / "card.md").write_text(card_markdown(spec.title, facts, manifest), encoding="utf-8")
        write_manifest(directory, made_from, {})
    for note in notes:
        say(f"report: {note}")
    print(plain_text(main), flush=True)
    for name, attempts in ledgers.items():
        say(f"report: {goodput_line(name, attempts)}")
    say(f"report: {target} (report.html opens without a network)")


def read_manifest(workdir: Path) -> dict[str, Any]:
    """The corpus manifest, with what the report cannot do without checked."""
    path = corpus_directory(workdir) / MANIFEST
    try:
        manifest = mapping(read_json(path, "prepare"), "the file")
        mapping(manifest.get("sets"), "sets")
        text(manifest.get("corpus_hash"), "corpus_hash")
    except Damaged as error:
        raise UserError(f"{path}: damaged ({error}); run `launch.py prepare` again") from None
    return dict(manifest)


def load_results(
    workdir: Path, manifest: Mapping[str, Any], order: Sequence[str], named: Sequence[str], split: str = "test"
) -> tuple[list[Result], list[str]]:
    """Results that may stand in one table, the random row included, and notes on those that may not or are missing. The
    results are in the given order, then in that of `named`, the rows of `config.evaluate`."""
    results = read_results(workdir, split)
    usable, notes = one_protocol(results, manifest)
    if not usable:
        raise UserError(
            f"{results_directory(workdir, split)}: all results were made from another corpus; run `launch.py "
            "evaluate` again"
        )
    known = {result.name for result in results}
    order = list(dict.fromkeys([*order, *named]))
    for name in order:
        if name not in known:
            what = (
                f"run `launch.py evaluate --only={name}`"
                if name in named
                else "config.evaluate.names has none of that name"
            )
            notes.append(f"{name}: no result yet; {what}")
    return with_random(ordered(usable, order), manifest), notes + _mask_notes(usable) + _score_notes(usable)


def one_protocol(results: Sequence[Result], manifest: Mapping[str, Any]) -> tuple[list[Result], list[str]]:
    """Those of the manifest's corpus, the newest protocol version, one split (test where there is any) and one scoring
    rule of the language models (the most frequent; of equals that of a trained one); a note on each other one."""
    fitting = [result for result in results if result.corpus_hash == manifest["corpus_hash"]]
    newest = max(
        (r.protocol_version for r in fitting),
        key=lambda version: (isinstance(version, int), str(version)),
        default=None,
    )
    current = [result for result in fitting if result.protocol_version == newest]
    split = (
        "test"
        if any(result.split == "test" for result in current)
        else next((result.split for result in current), "test")
    )
    of_split = [result for result in current if result.split == split]
    rules = [result.rule for result in of_split if result.rule]
    trained = {result.rule for result in of_split if result.kind != "untrained"}
    rule = max(dict.fromkeys(rules), key=lambda name: (rules.count(name), name in trained), default="")
    usable = [result for result in of_split if result.rule in ("", rule)]
    notes = []
    for result in results:
        if result in usable:
            continue
        if result not in fitting:
            why = "another corpus"
        elif result not in current:
            why = f"protocol version {result.protocol_version}, not {newest}"
        elif result not in of_split:
            why = f"the split {result.split}, not {split}"
        else:
            why = f"the scoring rule {result.rule}, not {rule}"
        notes.append(f"{result.name}: left out, made with {why}; run `launch.py evaluate --only={result.name}` again")
    return usable, notes


def _mask_notes(results: Sequence[Result]) -> list[str]:
    """Where `full` does not mean the same for all results of a set."""
    notes = []
    for name in dict.fromkeys(name for result in results for name in result.sets):
        of_set = {result.name: result.sets[name].facts for result in results if name in result.sets}
        masked = {result: facts["history_masked"] for result, facts in of_set.items() if "history_masked" in facts}
        if len(set(masked.values())) > 1:
            ranked = ", ".join(result for result, mask in masked.items() if not mask)
            notes.append(
                f"{name}: items of the history are ranked by {ranked} and by none of the others, so their figures do "
                "not compare; "
                "evaluate all with one config.evaluate.mask_history"
            )
    return notes


def _tokenizer_notes(workdir: Path) -> list[str]:
    """What the tokenizer of the rows loses of the titles: it bounds what any model of the work directory can tell
    apart."""
    manifests = {
        path.parent.name: read_json(path, "pack")
        for path in sorted(rows_directory(workdir).parent.glob(f"*/{MANIFEST}"))
    }
    losses = {stage: rows.get("tokenizer_losses") for stage, rows in manifests.items() if not stage.startswith(".")}
    return [f"rows of {stage}: the tokenizer loses parts of titles: {lost}" for stage, lost in losses.items() if lost]


def _score_notes(results: Sequence[Result]) -> list[str]:
    notes = [
        without_score_note(result.name, name, pairs)
        for result in results
        for name, pairs in result.without_score.items()
    ]
    for result in results:
        for name, of_set in result.sets.items():
            if scored := of_set.facts.get("scored_candidates_of"):
                notes.append(
                    f"{name}: {result.name} has scores for the candidates of {scored} alone, and stands in their "
                    "tables alone"
                )
    return notes


def sections(main: Sequence[Table], results: Sequence[Result], manifest: Mapping[str, Any]) -> list[Section]:
    """Everything under its heading; headings with nothing below are left out."""
    every = [
        Section(title="Ranking the whole catalogue", intro=LEGEND, tables=tuple(main)),
        *_ranking_sections(results, manifest),
        *_model_sections(results, manifest),
        Section(title="Corpus", intro="", tables=tuple(corpus_tables(manifest))),
    ]
    return [section for section in every if section.tables]


def _ranking_sections(results: Sequence[Result], manifest: Mapping[str, Any]) -> list[Section]:
    """How the methods rank on parts of the users, and under the other protocols."""
    sets = set_names(results, manifest)
    protocols = dict.fromkeys(
        name for result in results for of_set in result.sets.values() for name in of_set.protocols
    )

    def tables(names: Sequence[str]) -> tuple[Table, ...]:
        by_set = (protocol_table(name, protocol, results, manifest) for name in sets for protocol in names)
        return tuple(table for table in by_set if table)

    return [
        Section(
            title="By kind of target",
            intro=f"Warm targets have at least {WARM} training interactions, cold ones 1 to {WARM - 1}, never seen "
            "ones none; untied targets share their time with no other interaction of the user. Memorised: the "
            "transition from the last item to the target occurs in training; generalised: it does not. Overlap: the "
            "best TF-IDF cosine of the target's title and a title of the history, in terciles. Whole catalogue.",
            tables=tuple(table for name in sets for table in slice_tables(name, results, manifest)),
        ),
        Section(
            title="Sampled candidates",
            intro="The target among random others: only for comparison with papers, since sampling can reverse the "
            "order of methods (Krichene and Rendle 2020). u: uniform, p: matched in popularity.",
            tables=tables([name for name in protocols if not name.startswith(PRIMARY)]),
            folded=True,
        ),
        Section(
            title="History not masked",
            intro="The whole catalogue again, items of the user's history included, for the sets where they were "
            "left out above.",
            tables=tables([name for name in protocols if name.startswith(PRIMARY) and name != PRIMARY]),
            folded=True,
        ),
    ]


def _model_sections(results: Sequence[Result], manifest: Mapping[str, Any]) -> list[Section]:
    """What the methods are, what language models know besides, and what is recommended."""
    sets = set_names(results, manifest)
    forgetting, leaks = forgetting_table(results), leak_table(results, sets)
    return [
        Section(
            title="Forgetting",
            intro="How well each language model predicts a general text that no training saw. Bits per byte compare "
            "between tokenizers.",
            tables=() if forgetting is None else (forgetting,),
        ),
        Section(
            title="Leak probes",
            intro="What a model writes greedily: the rest of a title after the first half of its tokens, and a "
            "user's target after the prompt of the test, against another user's target after it. A base model that "
            "knows titles has met the data; whatever was trained on the catalogue should know them.",
            tables=() if leaks is None else (leaks,),
        ),
        Section(title="Methods", intro="", tables=(methods_table(results),)),
        Section(
            title="What is recommended",
            intro="Coverage: share of the catalogue in anyone's top 10. Popularity: mean percentile of the top 10 by "
            "training interactions. Title length: rank correlation of an item's mean score with the length of its "
            "title.",
            tables=tuple(table for name in sets if (table := facts_table(name, results))),
            folded=True,
        ),
    ]


def _unknown_sets(reference: Sequence[ReferenceRow], sets: Sequence[str]) -> list[str]:
    return sorted({row.set_name for row in reference} - set(sets))


def _intro(results: Sequence[Result], manifest: Mapping[str, Any]) -> list[str]:
    users = sum(max(r.sets[name].users for r in results if name in r.sets) for name in set_names(results, manifest))
    version = next((result.protocol_version for result in results if result.protocol_version is not None), None)
    return [
        f"{len(results)} methods, {len(set_names(results, manifest))} sets, {users:,} {split_of(results)} users. "
        f"Evaluation protocol {version}; corpus {manifest['corpus_hash'][:16]}."
    ]
