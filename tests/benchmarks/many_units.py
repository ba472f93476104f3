"""What a unit costs, and whether it costs more when there are many: a job of tiny units over many files.

    python -m tests.benchmarks.many_units --rows 10000 20000 --files 10000
    python -m tests.benchmarks.many_units --rows 1000 2000 --files 100 --s3

Every row is a unit of scoring, one of a shard and one of an answer; the router is tiny and both models are `echo`.
Prints, by stage, milliseconds of the processor for a unit, and the memory at its end; what comes before the first unit
(the listing among it) and after the last (the report and the commit); the commands that look; and what the ranks'
counter takes. On S3 (a real server, SeaweedFS, behind a proxy that counts) also the requests of each kind for a unit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.benchmarks.job_without_models import child, write_job
from tests.support.faults import FaultyProxy
from tests.support.seaweed import SeaweedFS

# Of each row: its score, its place in a shard, its answer.
UNITS_A_ROW = 3
BEFORE = {"score": "listing, imports, the router", "partition": "decision", "merge": "merge"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 20_000])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--max-cost", type=float, help="a limit, which each unit is held against")
    parser.add_argument("--s3", action="store_true", help="input and output in a bucket")
    parser.add_argument("--folder", help="where to work; a temporary folder that is removed afterwards")
    parser.add_argument("--quick", action="store_true", help="200 rows in 20 files")
    arguments = parser.parse_args()
    sizes, files = ([200], 20) if arguments.quick else (arguments.rows, arguments.files)
    results = []
    for rows in sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            results.append(_measured(Path(name), rows, files, arguments.s3, arguments.max_cost))
        result = results[-1]
        print(f"{rows:,} rows in {files:,} files, {UNITS_A_ROW * rows:,} units, peak {result['peak_mb']} MB")
        for part, figures in result["parts"].items():
            print(f"  {part:<30}" + "  ".join(f"{name} {value:,.2f}" for name, value in figures.items()), flush=True)
    claimed, read = counter(sizes[0])
    print(f"the ranks' counter: {1e6 * claimed:.0f} µs to claim and publish a unit, {1e6 * read:.0f} µs to read it")
    print(json.dumps(results))


def counter(units: int) -> tuple[float, float]:
    """Seconds of a unit for a rank that claims and publishes it, and for rank 0, which reads it; on one machine."""
    from torch.distributed import TCPStore

    zero = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    other = TCPStore("127.0.0.1", zero.port, is_master=False)
    receipt, started = "x" * 450, time.perf_counter()
    for _ in range(units):
        other.add("claimed", 1)
        other.set(f"done/{other.add('done', 1)}", receipt)
    claimed = time.perf_counter() - started
    for number in range(1, units + 1):
        assert zero.check([f"done/{number}"])
        assert len(zero.get(f"done/{number}")) == len(receipt)
    return claimed / units, (time.perf_counter() - started - claimed) / units


def _measured(folder: Path, rows: int, files: int, s3: bool, max_cost: float | None) -> dict[str, Any]:
    path = Path(write_job(folder))
    settings = yaml.safe_load(path.read_text())
    settings |= {"units": {"score": 1, "generate": 1}, "max_cost": max_cost, "report": {}}
    settings["input"]["uri"] = str(folder / "in")
    write_files(folder / "in", rows, files)
    with contextlib.ExitStack() as stack:
        counts: Counter[str] = Counter()
        if s3:
            server = stack.enter_context(SeaweedFS(folder / "server"))
            server.filesystem().put(str(folder / "in"), "bucket/in", recursive=True)
            proxy = stack.enter_context(FaultyProxy(server.endpoint, rate=0.0))
            os.environ |= server.environment(proxy.endpoint)
            settings["input"]["uri"], settings["output"]["uri"] = "s3://bucket/in", "s3://bucket/out"
            counts = proxy.counts
        path.write_text(yaml.safe_dump(settings))
        result = _run(str(path), counts if s3 else None, rows)
        for command, place in (("status", settings["output"]["uri"]), ("verify", settings["output"]["uri"])):
            before = counts.copy()
            _, seconds = child([sys.executable, "-m", "batchroute", command, place])
            asked = {"requests": float((counts - before)["requests"])} if s3 else {}
            result["parts"][command] = {"CPU s": seconds, **asked}
        return result


def write_files(folder: Path, rows: int, files: int) -> None:
    folder.mkdir()
    for number in range(files):
        at = range(rows * number // files, rows * (number + 1) // files)
        prompts = [f"word{i % 1000:03d} word{i // 1000 % 1000:03d}" for i in at]
        table = pa.table({"id": pa.array(at, pa.int64()), "prompt": pa.array(prompts, pa.string())})
        pq.write_table(table, folder / f"part-{number:05d}.parquet")


def _run(job: str, counts: Counter[str] | None, rows: int) -> dict[str, Any]:
    """Figures of each part of the run: what the process has used when its log shows that the part has ended."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "batchroute", "run", job, "--json-logs"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    parts, used = Parts(psutil.Process(process.pid), counts), ""
    for line in process.stderr:
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            stage = record.get("stage", "")
            if record["event"] == "done":
                parts.end("report, commit", 0)
            if record["event"] != "unit":
                continue
            if stage != used:
                # Merging has one unit here: its rows are counted.
                parts.end(BEFORE.get(stage, f"before {stage}"), rows if stage == "merge" else 0)
                used = stage
            if 1 < record["units"] == record["units_done"]:
                parts.end(stage, record["units"])
    process.wait()
    assert process.returncode == 0
    return {"rows": rows, "parts": parts.figures, "peak_mb": parts.peak}


class Parts:
    """The figures of each part of a process."""

    def __init__(self, process: psutil.Process, counts: Counter[str] | None) -> None:
        self.figures: dict[str, dict[str, float]] = {}
        self.peak, self._at = 0, time.monotonic()
        self._process, self._counts, self._used, self._asked = process, counts, 0.0, Counter[str]()

    def end(self, part: str, units: int) -> None:
        """Args:
        units: that the part did; 0: it has none.
        """
        now, memory = sum(self._process.cpu_times()[:2]), self._process.memory_info().rss >> 20
        figures: dict[str, float] = {"s": time.monotonic() - self._at, "CPU s": now - self._used, "MB": memory}
        self._at = time.monotonic()
        if units:
            figures |= {"units": units, "ms a unit": 1000 * figures["CPU s"] / units}
        if self._counts is not None:
            now_asked = self._counts.copy()
            for kind in ("PUT", "GET", "LIST", "HEAD", "DELETE", "POST"):
                if asked := now_asked[kind] - self._asked[kind]:
                    figures[f"{kind} a unit" if units else kind] = asked / (units or 1)
            self._asked = now_asked
        self.figures[part], self._used, self.peak = figures, now, max(self.peak, memory)


if __name__ == "__main__":
    main()
