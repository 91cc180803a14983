"""Job `export`: a checkpoint -> a Hugging Face directory, or its adapter -> a PEFT directory, with tokenizer and model
card."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from cprec_jax import artefact
from cprec_jax.config.build import build
from cprec_jax.config.export import ExportSpec
from cprec_jax.config.root import Config
from cprec_jax.config.text import TemplateSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from cprec_jax.hf import base, hub
from cprec_jax.hf.keys import few
from cprec_jax.hf.load import load_params, read_config
from cprec_jax.hf.save import save
from cprec_jax.hf.save_adapter import DTYPE, BaseModel, save_adapter
from cprec_jax.hf.tokenizer_check import TokenizerCheck
from cprec_jax.model.decoder import Decoder, Params, abstract_params, count_params
from cprec_jax.parallel import rules
from cprec_jax.parallel.mesh import make_mesh
from cprec_jax.progress import say
from cprec_jax.report.model_card import model_card
from cprec_jax.text import tokenizer
from cprec_jax.train.description import read_description, training_facts
from cprec_jax.train.leaves import by_name
from cprec_jax.train.restore import Restored, restore_decoder, restore_stored
from cprec_jax.workdir import (
    adapter_directory,
    corpus_directory,
    export_directory,
    rows_directory,
    run_directory,
    tokenizer_directory,
)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What an export reads of a run besides its parameters. base_dir: where the small files of its base model are, if
    it has one."""

    directory: Path
    description: dict[str, Any]
    rows: dict[str, Any]
    tokenizer_dir: Path
    base_dir: Path | None
    check: TokenizerCheck

    @classmethod
    def open(cls, workdir: Path, name: str) -> "_Run":
        directory = run_directory(workdir, 0, name)
        description = read_description(directory)
        rows_dir = rows_directory(workdir, description["rows"])
        rows = artefact.read_json(rows_dir / artefact.MANIFEST, "pack")
        return cls(
            directory=directory,
            description=description,
            rows=rows,
            tokenizer_dir=tokenizer_directory(workdir, description["rows"]),
            base_dir=directory / base.DIRECTORY if (directory / base.DIRECTORY).exists() else None,
            check=_tokenizer_check(workdir, rows_dir, rows),
        )

    def facts(self, loaded: Restored, dtype: str) -> dict[str, Any]:
        """For the card and the manifest."""
        description, rows = self.description, self.rows
        adapter = None if description["lora"] is None else vars(description["lora"])
        return {
            "parameters": count_params(loaded.decoder.config),
            "step": loaded.step,
            "tokens": loaded.meta.get("tokens"),
            "dtype": dtype,
            "base_model": base.hub_name(self.directory / base.DIRECTORY),
            "init_from": description["model"].init_from,
            "corpus_hash": rows["corpus_hash"],
            "rows_hash": rows["rows_hash"],
            "params_sha256": artefact.read_json(self.directory / artefact.MANIFEST, "train")["params_sha256"],
            "fine_tuned_on": description["sets"],
            "base_sha256": _base_hash(description[artefact.MADE_FROM]),
            "template": rows["template"],
            "training": training_facts(description["train"])
            | {"objective": description["objective"], "start": description["start"], "adapter": adapter},
            "row_length": rows["row_length"],
            "titles_with_control_tokens": self.check.titles_with_control_tokens(),
        }


def _mesh() -> jax.sharding.Mesh | None:
    """All devices: a model that was trained on many may not fit one."""
    return make_mesh(data=1, fsdp=-1) if jax.device_count() > 1 else None


def export(config: Config, workdir: Path, name: str, made_from: Mapping[str, Any]) -> None:
    """Write the directory of the run `name`; `transformers.AutoModelForCausalLM.from_pretrained` loads it."""
    spec = config.export or ExportSpec()
    opened = _Run.open(workdir, name)
    loaded = restore_decoder(opened.directory, step=spec.step, mesh=_mesh())
    facts, target = opened.facts(loaded, spec.dtype), export_directory(workdir, name)
    save(
        target,
        loaded.params,
        loaded.decoder.config,
        opened.tokenizer_dir,
        model_card(config, workdir, facts, opened.base_dir),
        dtype=spec.dtype,
        shard_bytes=spec.shard_bytes,
        base_dir=opened.base_dir,
        check=opened.check.run,
    )
    if jax.process_index() == 0:
        artefact.write_manifest(target, made_from, facts)
    say(f"export: step {loaded.step} -> {target}")


def export_adapter(
    config: Config, workdir: Path, name: str, base_run: str | None, made_from: Mapping[str, Any]
) -> None:
    """Write the adapter of the run `name`; `peft.PeftModel.from_pretrained` loads it onto its base.

    base_run: the run whose model is that base, which is exported before; None: the base model of the config. Raises
    `UserError` where that is not what the adapter was trained on.
    """
    spec = config.export or ExportSpec()
    opened = _Run.open(workdir, name)
    stored = restore_stored(opened.directory, step=spec.step, mesh=_mesh())
    lora, adapters = opened.description["lora"], stored.decoder.adapters
    assert lora is not None and adapters is not None
    named = _base_model(workdir, opened, stored, base_run, spec.step)
    facts, target = opened.facts(stored, DTYPE.name) | {"adapter_of": named.name}, adapter_directory(workdir, name)
    card = model_card(config, workdir, facts, opened.base_dir)
    config_, check = stored.decoder.config, opened.check.run
    save_adapter(target, stored.params, config_, adapters.weights, lora, named, opened.tokenizer_dir, card, check)
    if jax.process_index() == 0:
        artefact.write_manifest(target, made_from, facts)
    say(f"export: adapter of step {stored.step} -> {target}, for {named.name}")


def _base_model(workdir: Path, opened: _Run, stored: Restored, base_run: str | None, step: int | None) -> BaseModel:
    """What PEFT is to load under the adapter. Where that is not the very base of the run, `UserError`."""
    from cprec_jax.hf.adapter import is_adapter

    instead = "export it merged (config.export.lora)"
    if base_run is not None:
        loaded = restore_decoder(run_directory(workdir, 0, base_run), step=step, mesh=_mesh())
        exported = f"step {loaded.step} of {base_run}, which is exported"
        _check_base(stored, loaded.params, exported, "leave config.export.step out")
        return BaseModel(name=str(export_directory(workdir, base_run).resolve()))
    source = opened.description["model"].init_from
    assert source is not None, "refused by config/root.py"
    directory = hub.locate(source)
    if is_adapter(directory):
        raise UserError(
            f"config.export.lora: the base of {opened.directory.name} is an adapter itself ({source}); {instead}"
        )
    config = read_config(directory)
    shardings = rules.param_shardings(stored.params["embed"].sharding.mesh, *abstract_params(Decoder(config)))
    _check_base(
        stored,
        load_params(directory, config, shardings),
        source,
        f"new tokens may have rows of their own, or its files changed; {instead}",
    )
    if hub.is_directory(source):
        return BaseModel(name=str(directory.resolve()))
    name, _, revision = hub.identity(source).partition("@")
    return BaseModel(name=name, revision=revision)


def _check_base(stored: Restored, base_params: Params, what: str, remedy: str) -> None:
    """`UserError` where the weights under an adapter are not those of `what`."""
    trained_on = by_name(stored.params)
    different = [
        name
        for name, leaf in by_name(base_params).items()
        if trained_on[name].shape != leaf.shape or not bool((trained_on[name] == leaf).all())
    ]
    if different:
        raise UserError(
            f"config.export.lora: the adapter was trained on another base than {what} ({few(different)} differ); "
            f"{remedy}"
        )


def _base_hash(made_from: Mapping[str, Any]) -> str | None:
    """Of the weights of the base model, where they lay in a directory of its own."""
    weights = {name: sha256 for name, sha256 in made_from["files"].items() if name.startswith("config.model.init_from")}
    return artefact.fingerprint(weights) if weights else None


def _tokenizer_check(workdir: Path, rows_dir: Path, rows: Mapping[str, Any]) -> TokenizerCheck:
    """Titles and template of the run, as far as the corpus is still there."""
    template = build(TemplateSpec, rows["template"], f"{rows_dir / artefact.MANIFEST}: template")
    titles, domains = [], []
    if (corpus_directory(workdir) / artefact.MANIFEST).exists():
        corpus = Corpus.open(corpus_directory(workdir))
        titles, domains = corpus.items.title, corpus.domains
    else:
        say("export: the corpus is gone, so the exported tokenizer is compared on the template alone")
    return TokenizerCheck(
        tokenizer=tokenizer.load(rows_dir / "tokenizer"),
        template=template,
        titles=titles,
        scopes=[*domains, template.all_domains],
    )
