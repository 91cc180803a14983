"""`pack` side by side with tokenising rendered text and packing it with `datasets`, in pairs of runs on the same
sequences.

    python benchmarks/pack.py [--quick] [--json FILE] [--interactions N] [--repeats 3] [--row-length 2048] [--tokenizer
    DIR] [--work DIR]

Needs requirements-bench.txt. Generated interactions (`benchmarks/interactions.py`) are prepared without a k-core; a
byte-level BPE of 16,384 tokens is trained on the titles unless --tokenizer names another. Both sides start as a process
from files on disk and end with rows on disk, with as many processes as there are cores. Ours is `launch.py pack`: from
the corpus, its titles tokenised within the measurement. `datasets` (`benchmarks/pack_datasets.py`) gets the sequences
already rendered as text, header included, as one Parquet file.

Names: pack_speedup_vs_hf (tokens per second), row_fill (tokens / places in all rows), pack_tokens_per_second and
pack_peak_memory (of the process that packs; smaller is better).
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import interactions, measure, prepare
from cprec_jax.config.text import TemplateSpec
from cprec_jax.corpus import Corpus
from cprec_jax.text import tokenizer

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 16_384


def render(corpus: Corpus, path: Path) -> None:
    """Every training sequence as the text that `pack` turns into tokens."""
    spec, titles = TemplateSpec(), corpus.items.title
    pretrain = [name for name, info in corpus.sets.items() if info.role == "pretrain"]
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for kind, name in [*(("domain", name) for name in pretrain), ("mixed", "all")]:
            header = spec.header.format(scope=spec.all_domains if kind == "mixed" else name)
            for items, offsets in corpus.windows(kind, name, 200_000):
                lines = [titles[item] + spec.end_of_item for item in items.tolist()]
                ends = offsets.tolist()
                texts = [header + "".join(lines[a:b]) for a, b in itertools.pairwise(ends)]
                writer.write_table(pa.table({"text": texts}, schema=schema))


def make_data(total: int, work: Path, given_tokenizer: Path | None, rendered: bool = True) -> tuple[Path, Path, Path]:
    """A work directory with a corpus, a tokenizer, and where the rendered texts are, if wanted; none of this is
    measured."""
    data, workdir = work / "raw", work / "workdir"
    interactions.generate(data, total)
    prepare.write_config(work / "prepare.py", prepare.corpus_section(data, "4GB", candidates=False) | {"k_core": 0})
    command = [
        sys.executable,
        str(ROOT / "launch.py"),
        "prepare",
        f"--config={work / 'prepare.py'}",
        f"--workdir={workdir}",
    ]
    measure.run(command, workdir)
    shutil.rmtree(data)
    corpus = Corpus.open(workdir / "corpus")
    texts = work / "texts.parquet"
    if rendered:
        render(corpus, texts)
    if given_tokenizer is None:
        given_tokenizer = work / "tokenizer"
        tokenizer.train(corpus.items.title, [1] * len(corpus.items), VOCABULARY, given_tokenizer, across_words=False)
    return workdir, given_tokenizer, texts


def launch_pack(workdir: Path, tokenizer_directory: Path, row_length: int) -> tuple[measure.Run, int, int]:
    """`launch.py pack`; returns also tokens and rows."""
    config = workdir / "pack.py"
    sections = {"text": {"tokenizer": str(tokenizer_directory)}, "pack": {"row_length": row_length}}
    config.write_text(f"def get_config():\n    return {sections!r}\n", encoding="utf-8")
    command = [sys.executable, str(ROOT / "launch.py"), "pack", f"--config={config}", f"--workdir={workdir}"]
    run = measure.run(command, workdir / "rows", {"JAX_PLATFORMS": "cpu"})
    splits = json.loads((workdir / "rows" / "cpt" / "manifest.json").read_text(encoding="utf-8"))["splits"].values()
    shutil.rmtree(workdir / "rows")
    return run, sum(entry["tokens"] for entry in splits), sum(entry["rows"] for entry in splits)


def hugging_face(texts: Path, tokenizer_directory: Path, row_length: int, work: Path) -> tuple[measure.Run, int]:
    out = work / "hf"
    out.mkdir()
    script = str(ROOT / "benchmarks" / "pack_datasets.py")
    command = [
        sys.executable,
        script,
        str(texts),
        str(tokenizer_directory),
        str(row_length),
        str(os.cpu_count() or 1),
        str(out),
    ]
    run = measure.run(command, out)
    tokens = json.loads((out / "counts.json").read_text(encoding="utf-8"))["tokens"]
    shutil.rmtree(out)
    return run, tokens


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under two minutes on two cores")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--interactions", type=int, help="raw interactions (default 10,000,000)")
    parser.add_argument("--repeats", type=int, help="pairs of runs (default 3)")
    parser.add_argument("--row-length", type=int, default=2048)
    parser.add_argument("--tokenizer", type=Path, help="a Hugging Face directory")
    parser.add_argument("--no-hf", action="store_true", help="only ours, for large sizes")
    parser.add_argument("--work", type=Path, help="folder for generated files and rows (default: a temporary one)")
    options = parser.parse_args(arguments)
    total = options.interactions or (200_000 if options.quick else 10_000_000)
    print(measure.machine(), flush=True)
    results = measure.Results()
    speedups, rates, memory = [], [], []
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        workdir, tokenizer_directory, texts = make_data(
            total, Path(folder), options.tokenizer, rendered=not options.no_hf
        )
        for _ in range(options.repeats or (1 if options.quick else 3)):
            mine, tokens, rows = launch_pack(workdir, tokenizer_directory, options.row_length)
            rates.append(tokens / mine.seconds)
            memory.append(mine.memory_mib)
            print(
                f"  ours {tokens} tokens in {mine.seconds:.1f} s (all cores {mine.cpu_seconds:.1f} s), "
                f"{mine.memory_mib:.0f} MiB",
                flush=True,
            )
            if not options.no_hf:
                datasets_run, their_tokens = hugging_face(texts, tokenizer_directory, options.row_length, Path(folder))
                # Titles and ends of items are tokenised together here, so counts may differ a little; each side is
                # measured by its own.
                speedups.append(rates[-1] / (their_tokens / datasets_run.seconds))
                print(
                    f"  datasets {their_tokens} tokens in {datasets_run.seconds:.1f} s "
                    f"(all cores {datasets_run.cpu_seconds:.1f} s)",
                    flush=True,
                )
    detail = f"{tokens:,} tokens, row length {options.row_length}, {len(rates)} pairs, median"
    if speedups:
        results.add("pack_speedup_vs_hf", statistics.median(speedups), "x", "fast tokenizer + datasets", detail)
    results.add("row_fill", tokens / (rows * options.row_length), "share", "nothing", detail)
    results.add("pack_tokens_per_second", statistics.median(rates), "tokens/s", "nothing", detail)
    results.add(
        "pack_peak_memory", statistics.median(memory) / 1024, "GiB", "nothing", "largest process; smaller is better"
    )
    results.write(options.json)


if __name__ == "__main__":
    main()
