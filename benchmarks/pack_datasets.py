"""The yardstick of benchmarks/pack.py: tokenise rendered text with the Hugging Face fast tokenizer and pack it with
`datasets`.

    python benchmarks/pack_datasets.py TEXTS.parquet TOKENIZER ROW_LENGTH PROCESSES OUT

As TRL does it (`pack_dataset(strategy="wrapped")`, trl 1.x): `map` the tokenizer over batches in several processes,
then concatenate the ids of each batch and cut them every ROW_LENGTH tokens, on Arrow columns without a Python loop; the
result is saved to disk.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"})

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute
from transformers import AutoTokenizer


def main(texts: Path, tokenizer_directory: Path, row_length: int, processes: int, out: Path) -> None:
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory, local_files_only=True)

    def tokenise(batch: dict[str, list[str]]) -> dict[str, Any]:
        return {
            "input_ids": tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        }

    def wrap(table: pa.Table) -> pa.Table:
        ids = pa.chunked_array([chunk.flatten() for chunk in table["input_ids"].chunks]).combine_chunks()
        ends = np.append(np.arange(0, len(ids), row_length), len(ids)).astype(np.int32)
        return pa.table({"input_ids": pa.ListArray.from_arrays(pa.array(ends), ids)})

    data = datasets.load_dataset("parquet", data_files=str(texts), split="train", cache_dir=str(out / "cache"))
    data = data.map(tokenise, batched=True, num_proc=processes, remove_columns=["text"])
    data = data.with_format("arrow").map(wrap, batched=True, num_proc=processes)
    data.save_to_disk(str(out / "packed"))
    tokens = sum(
        int(pa.compute.sum(pa.compute.list_value_length(batch["input_ids"])).as_py()) for batch in data.iter(10_000)
    )
    counts = {"tokens": tokens, "rows": len(data)}
    (out / "counts.json").write_text(json.dumps(counts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
