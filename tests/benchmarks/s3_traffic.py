"""What a job moves to and from S3: requests for every 1,000 rows, and bytes read for every byte of the input.

    python tests/benchmarks/s3_traffic.py --rows 20000 200000

A real server (SeaweedFS) behind a proxy that counts. The prompts have 200 characters and stand beside a column of
2,000 that no model reads; the router is tiny and both models are `echo`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks import job_without_models as local
from tests.support.faults import FaultyProxy
from tests.support.seaweed import SeaweedFS

CONTEXT_BYTES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--quick", action="store_true", help="2,000 rows")
    arguments = parser.parse_args()
    results = []
    for rows in [2_000] if arguments.quick else arguments.rows:
        with tempfile.TemporaryDirectory() as folder, SeaweedFS(Path(folder) / "server") as server:
            results.append(measure(Path(folder), rows, server))
        found = results[-1]
        print(
            f"{rows:>9,} rows  {found['requests']:,} requests, {found['requests_per_1000_rows']:.1f} for 1,000 rows  "
            f"read {found['read_per_input_byte']:.2f}, wrote {found['written_per_input_byte']:.2f} times the input",
            flush=True,
        )
    print(json.dumps(results))


def measure(folder: Path, rows: int, server: SeaweedFS) -> dict[str, float]:
    source = folder / "in.parquet"
    local.write_input(source, rows)
    _widen(source)
    server.filesystem().put_file(str(source), "bucket/in.parquet")
    settings = yaml.safe_load(Path(local.write_job(folder)).read_text())
    settings["input"]["uri"], settings["output"]["uri"] = "s3://bucket/in.parquet", "s3://bucket/out"
    (folder / "job.yaml").write_text(yaml.safe_dump(settings))
    with FaultyProxy(server.endpoint, rate=0.0) as proxy:
        os.environ |= server.environment(proxy.endpoint)
        local.child([sys.executable, "-m", "batchroute", "run", str(folder / "job.yaml"), "--json-logs"])
        counts: Counter[str] = proxy.counts
    size = source.stat().st_size
    return {
        "rows": rows, "input_bytes": size, "requests": counts["requests"],
        "requests_per_1000_rows": counts["requests"] / rows * 1000,
        "read_per_input_byte": counts["bytes out"] / size, "written_per_input_byte": counts["bytes in"] / size,
    }  # fmt: skip


def _widen(path: Path) -> None:
    """Add a column that the job only passes on."""
    table = pq.read_table(path)
    chance = np.random.default_rng(2)
    context = [chance.bytes(CONTEXT_BYTES).hex() for _ in range(table.num_rows)]
    pq.write_table(table.append_column("context", pa.array(context)), path, row_group_size=50_000)


if __name__ == "__main__":
    main()
