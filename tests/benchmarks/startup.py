"""How long each way of starting a run takes until the first unit begins, and of what.

    python -m tests.benchmarks.startup [--repeats 3] [--quick]

Runs the whole command on a small job with a tiny router, and on one with the embedded models, MiniLM with a head of
random weights as the router; the first unit's begin is its receipt's. The rest are the parts: the imports of a run;
what a launcher takes until its ranks' code begins; two ranks that meet, by `joined`; and two that form accelerate's
process group of gloo instead, both with everything imported before the clock starts. Last, the processor seconds of
the commands that only look.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import psutil
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from batchroute import models
from batchroute.router.model import quiet_transformers
from tests.benchmarks.job_without_models import child, write_job

ROWS, RANKS = 1000, 2
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}"]
IMPORTS = "import batchroute.commands.run, batchroute.pipeline.run, batchroute.router.model, torch, transformers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="each once")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = ["-m", "batchroute", "run", _write_job(folder), "--json-logs"]
        embedded = ["-m", "batchroute", "run", _write_embedded_job(folder / "embedded"), "--json-logs"]
        rules: dict[str, Callable[[], float]] = {
            "one process": lambda: _first_unit(folder, [sys.executable, *run]),
            "one process, embedded models": lambda: _first_unit(folder, [sys.executable, *embedded]),
            f"--processes {RANKS}": lambda: _first_unit(folder, [sys.executable, *run, "--processes", str(RANKS)]),
            f"torchrun, {RANKS} ranks": lambda: _first_unit(folder, [*TORCHRUN, *run]),
            "--engine ray, a new cluster": lambda: _first_unit(folder, [sys.executable, *run, "--engine", "ray"]),
            "of these: imports": lambda: _seconds(folder, [sys.executable, "-c", IMPORTS]),
            "torchrun until its ranks begin": lambda: _of_ranks(folder, "began"),
            "ranks meet (joined)": lambda: _of_ranks(folder, "joined"),
            "instead: accelerate's process group (gloo)": lambda: _of_ranks(folder, "accelerator"),
        }
        found: dict[str, list[float]] = {rule: [] for rule in rules}
        for _ in range(1 if arguments.quick else arguments.repeats):
            for rule, measure in rules.items():
                found[rule].append(measure())
                print(f"{rule}: {found[rule][-1]:.2f} s", file=sys.stderr, flush=True)
        looking = processor_seconds(folder, run[3], 1 if arguments.quick else 5)
    print("| | seconds |")
    print("|---|---|")
    for rule, seconds in found.items():
        print(f"| {rule} | {statistics.median(seconds):.2f} |")
    print("| command | processor seconds |")
    print("|---|---|")
    for command, figure in looking.items():
        print(f"| `{command}` | {figure:.2f} |")
    print(json.dumps({"cores": os.cpu_count(), "seconds": found, "commands": looking}))


def processor_seconds(folder: Path, job: str, repeats: int) -> dict[str, float]:
    """Of `--help`, and of the commands that look at a small job's output, or check the job; the median."""
    output = str(folder / "looked-at")
    child([sys.executable, "-m", "batchroute", "run", job, "--set", f"output.uri={output}"])
    commands = {"--help": [], "status": [output], "verify": [output], "validate": [job]}
    return {
        name: statistics.median(child([sys.executable, "-m", "batchroute", name, *rest])[1] for _ in range(repeats))
        for name, rest in commands.items()
    }


def _write_job(folder: Path) -> str:
    prompts = [f"word{i % 1000:03d} word{i // 1000:03d}" for i in range(ROWS)]
    table = pl.DataFrame({"id": range(ROWS), "prompt": prompts, "team": ["support"] * ROWS})
    table.write_parquet(folder / "in.parquet")
    return write_job(folder)


def _write_embedded_job(folder: Path) -> str:
    folder.mkdir()
    with quiet_transformers():
        encoder = models.resolve("embedded:all-minilm-l6-v2")
        AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1).save_pretrained(folder / "router")
        AutoTokenizer.from_pretrained(encoder).save_pretrained(folder / "router")
    pl.DataFrame({"id": range(2), "prompt": ["What is sweet?", "What is sour?"]}).write_parquet(folder / "in.parquet")
    shared = {"backend": "transformers", "generation": {"max_new_tokens": 1}}
    settings = {
        "input": {"uri": str(folder / "in.parquet"), "id": "id", "prompt": "prompt"},
        "output": {"uri": str(folder / "out")},
        "router": {"model": str(folder / "router")},
        "policy": {"small_share": "50%"},
        "models": {
            "small": {"model": "embedded:smollm2-135m-instruct", **shared},
            "large": {"model": "embedded:gemma-3-270m", **shared},
        },
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def _first_unit(folder: Path, command: Sequence[str]) -> float:
    """Seconds from the command to the begin of its first unit."""
    output = folder / f"out-{time.time_ns()}"
    started = time.time()
    _seconds(folder, [*command, "--set", f"output.uri={output}", "--set", "units.score=100"])
    receipts = [json.loads(path.read_text()) for path in output.with_name(f"{output.name}.work").glob("*/score/*.json")]
    return float(min(receipt["finished"] - receipt["seconds"] for receipt in receipts)) - started


def _of_ranks(folder: Path, what: str) -> float:
    """Of the rank that came last to what all of them do: how long it took, see `rank`."""
    places = folder / f"ranks-{time.time_ns()}"
    places.mkdir()
    started = time.time()
    _seconds(folder, [*TORCHRUN, __file__, "--rank", what, str(places)])
    figures = [float(path.read_text()) for path in places.iterdir()]
    assert len(figures) == RANKS
    return max(figures) - started if what == "began" else min(figures)


def _seconds(folder: Path, command: Sequence[str]) -> float:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    # One thread each, as two ranks on two cores have; for Ray a folder of its own, where no cluster of others is named.
    environment |= {"OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(folder)}
    started = time.perf_counter()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return time.perf_counter() - started


def rank(what: str, places: Path) -> None:
    """One of the ranks: writes when it began, or how long it took until all of them had met."""
    if what == "began":
        figure = psutil.Process().create_time()
    elif what == "joined":
        importlib.import_module("torch.distributed")
        ranks = importlib.import_module("batchroute.engines.ranks.engine")
        world = importlib.import_module("batchroute.engines.ranks.world").World.from_environment()
        started = time.perf_counter()
        with ranks.joined(world):
            figure = time.perf_counter() - started
    else:
        accelerate = importlib.import_module("accelerate")
        started = time.perf_counter()
        accelerator = accelerate.Accelerator(cpu=True)
        # The group's ranks connect to each other when they first meet.
        accelerator.wait_for_everyone()
        figure = time.perf_counter() - started
        accelerator.end_training()
    (places / os.environ["RANK"]).write_text(str(figure))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
