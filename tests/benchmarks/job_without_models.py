"""The job without models: everything but scoring and generation, on many rows.

    python tests/benchmarks/job_without_models.py --rows 1000000 5000000
    python tests/benchmarks/job_without_models.py --rows 1000000 --decide before after --small-share 80%
    python tests/benchmarks/job_without_models.py --rows 1000000 --processes 1 2
    python tests/benchmarks/job_without_models.py --rows 1000000 --against ray ray-zstd daft --python ENV/bin/python

Scores are drawn at random and committed as the scoring stage would, before the clock starts; both models are `echo`.
Prints rows per second and peak memory of the run that does the rest, for each number of rows (the peak must not grow
with them; of several processes it is that of the largest), and the time in which polars copies the same file by
`scan_parquet` and `sink_parquet`, before and after; with `--against` also the time in which Ray Data or Daft writes the
same columns (`job_in_engines.py`), their start included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

CHARACTERS = 200
_HALF = {"small_share": "50%"}
ENGINES = ("ray", "ray-zstd", "daft")
COPY = "import polars, sys; polars.scan_parquet(sys.argv[1]).sink_parquet(sys.argv[2])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--folder", help="where to work; a temporary folder that is removed afterwards")
    parser.add_argument("--decide", nargs="+", choices=["before", "after"], default=["before"], help="when to decide")
    parser.add_argument("--small-share", default="50%", help="of the rows, to the small model")
    parser.add_argument("--processes", type=int, nargs="+", default=[1], help="of the job")
    parser.add_argument("--against", nargs="+", choices=ENGINES, default=[], help="the same columns by other engines")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has these engines")
    parser.add_argument("--quick", action="store_true", help="20,000 rows")
    arguments = parser.parse_args()
    for engine in arguments.against:
        package = engine.partition("-")[0]
        if subprocess.run([arguments.python, "-c", f"import {package}"], capture_output=True).returncode:
            parser.error(f"--against: {arguments.python} has no package {package}")
    rivals = dict.fromkeys(arguments.against, arguments.python)
    sizes = [20_000] if arguments.quick else arguments.rows
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for rows, decide, processes in itertools.product(sizes, arguments.decide, arguments.processes):
            policy = {"small_share": arguments.small_share, "decide": decide}
            found = measure(Path(folder) / f"{rows}-{decide}-{processes}", rows, policy, processes, rivals)
            results.append({"decide": decide, "processes": processes, **found})
            of_rivals = (f"  {engine} {found[f'{engine}_seconds']:.1f} s" for engine in rivals)
            print(
                f"{decide:>6} {rows:>10,} rows  {processes} processes  {found['seconds']:6.1f} s  "
                f"{found['cpu_seconds']:6.1f} s of CPU  {found['rows_per_second']:9,.0f} rows/s  "
                f"peak {found['peak_mb']:6,.0f} MB  polars {found['polars_seconds']:.1f} s  {found['ratio']:.1f} times"
                + "".join(of_rivals),
                flush=True,
            )
    print(json.dumps(results))


def measure(
    folder: Path, rows: int, policy: Mapping[str, str], processes: int = 1, rivals: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Args:
    rivals: interpreters by the engine that each has.
    """
    folder.mkdir()
    # By a process of its own: one that is started from a large process counts that one's memory as its own peak.
    child([sys.executable, __file__, "--write-input", str(folder / "in.parquet"), str(rows)])
    job = write_job(folder, policy)
    child([sys.executable, __file__, "--score-only", job])
    before = seconds_of([sys.executable, "-c", COPY, str(folder / "in.parquet"), str(folder / "copy.parquet")])[0]
    command = [sys.executable, "-m", "batchroute", "run", job, "--json-logs"]
    command += ["--processes", str(processes)] if processes > 1 else []
    seconds, (peak, cpu) = seconds_of(command)
    after = seconds_of([sys.executable, "-c", COPY, str(folder / "in.parquet"), str(folder / "copy.parquet")])[0]
    counted = json.loads((folder / "out" / "manifest.json").read_text())["counts"]
    assert counted["ok"] == rows, counted
    polars = (before + after) / 2
    taken = {}
    for engine, python in (rivals or {}).items():
        script = Path(__file__).with_name("job_in_engines.py")
        paths = str(folder / "in.parquet"), str(folder / engine)
        taken[f"{engine}_seconds"] = seconds_of([python, str(script), engine, *paths])[0]
    # Five million rows fill a disk.
    shutil.rmtree(folder)
    return {
        "rows": rows, "seconds": seconds, "cpu_seconds": cpu, "rows_per_second": rows / seconds, "peak_mb": peak / 1024,
        "polars_seconds": polars, "ratio": seconds / polars, **taken,
    }  # fmt: skip


def seconds_of(command: list[str]) -> tuple[float, tuple[int, float]]:
    """How long a command takes, and what `child` says of it."""
    started = time.perf_counter()
    used = child(command)
    return time.perf_counter() - started, used


def child(command: list[str]) -> tuple[int, float]:
    """Run a command to its end; its peak memory in kB, and its seconds on all cores."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return usage.ru_maxrss, usage.ru_utime + usage.ru_stime


def write_input(path: Path, rows: int) -> None:
    schema = pa.schema([("id", pa.int64()), ("prompt", pa.string()), ("team", pa.string())])
    words = np.array([f"word{i:03d}" for i in range(1000)])
    chance = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 50_000):
            count = min(50_000, rows - start)
            picked = words[chance.integers(0, 1000, (count, CHARACTERS // 8))]
            prompts = [" ".join(line) for line in picked.tolist()]
            teams = np.array(["search", "support"])[chance.integers(0, 2, count)]
            writer.write_table(pa.table([np.arange(start, start + count), prompts, teams], schema=schema))


def write_router(folder: Path) -> None:
    """A real, tiny BERT that reads whole words, so that a million rows are scored in about a minute."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *(f"word{i:03d}" for i in range(1000))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=32,
        max_position_embeddings=64, num_labels=1,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)


def write_job(folder: Path, policy: Mapping[str, str] = _HALF) -> str:
    write_router(folder / "router")
    price = {"input": 0.5, "output": 1.5}
    settings = {
        "input": {"uri": str(folder / "in.parquet"), "id": "id", "prompt": "prompt"},
        "output": {"uri": str(folder / "out")},
        "router": {"model": str(folder / "router"), "max_length": 8, "price": {"gpu_hour": 1}},
        "policy": dict(policy),
        "models": {
            "small": {"backend": "echo", "price": price},
            "large": {"backend": "echo", "model": "echo-2", "price": price},
        },
        "report": {"group_by": ["team"]},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def score_only(path: str) -> None:
    """The snapshot, and random scores in the place of a router's."""
    from batchroute.config import loading
    from batchroute.pipeline import layout
    from batchroute.pipeline.identity import identify
    from batchroute.pipeline.stages import score, snapshot
    from batchroute.storage.local import LocalFolder
    from batchroute.storage.receipts import Facts

    job = loading.load(path)
    identity = identify(job)
    frozen, table = snapshot.inspect(job, identity)
    frozen, work = snapshot.begin(job, identity, frozen, table, LocalFolder(job.output.uri))
    chance = np.random.default_rng(1)
    for chunk in frozen.chunks():
        rows = chunk.rows
        digests = pa.FixedSizeBinaryArray.from_buffers(
            score.DIGEST, rows, [None, pa.py_buffer(chance.bytes(16 * rows))]
        )
        columns = [
            pa.array(np.arange(chunk.start, chunk.stop)), pa.array(chance.random(rows, np.float32)),
            pa.array(np.full(rows, CHARACTERS // 8, np.int32)), digests,
            *(pa.nulls(rows, field.type) for field in list(score.SCHEMA)[4:]),
        ]  # fmt: skip
        facts = Facts(
            run_id=frozen.run_id, unit=chunk.unit, rows=rows, first=chunk.start, last=chunk.stop - 1, seconds=0.0,
            counts={"failed": 0, "tokens": rows * CHARACTERS // 8, "truncated": 0, "unscored": 0},
        )  # fmt: skip
        work.stage(layout.SCORE).commit(facts, score.SCHEMA, pa.table(columns, schema=score.SCHEMA).to_batches())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    if sys.argv[1:2] == ["--score-only"]:
        score_only(sys.argv[2])
    elif sys.argv[1:2] == ["--write-input"]:
        write_input(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
