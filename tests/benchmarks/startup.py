"""How long each way of starting a run takes until the first unit begins, and of what.

    python -m tests.benchmarks.startup [--repeats 3] [--only endpoints embedded] [--quick]

Runs the command until that unit on a small job with a tiny router, on one with the embedded models, MiniLM with a head
of random weights as the router, and on one whose models are endpoints at a local server that answers at once, without a
router and with one. A unit's begin is its receipt's; of endpoints also the small model's first unit, which is the first
request. The processor seconds are the process's own, until it has written that receipt; they bear a busy machine
better. The rest are the parts: the imports of a run; what a launcher takes until its ranks' code begins; two ranks that
meet, by `joined`; and two that form accelerate's process group of gloo instead, both with everything imported before
the clock starts. Last, the processor seconds of the commands that only look.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import functools
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
from typing import Any

import polars as pl
import psutil
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import batchroute
from batchroute import models
from batchroute.errors import EXIT_TERMINATED
from batchroute.models import quiet_transformers
from tests.benchmarks.job_without_models import child, write_job
from tests.support.openai_server import ServerProcess

ROWS, RANKS = 1000, 2
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}"]
IMPORTS = "import batchroute.commands.run, batchroute.pipeline.run, batchroute.router.model, torch, transformers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="the rows with one of these words")
    parser.add_argument("--quick", action="store_true", help="each once")
    arguments = parser.parse_args()
    # As pip does when it installs.
    compileall.compile_dir(Path(batchroute.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory() as name, ServerProcess(Path(name) / "server", strict=False) as server:
        folder = Path(name)
        run = ["-m", "batchroute", "run", _write_job(folder), "--json-logs"]
        embedded = ["-m", "batchroute", "run", _write_embedded_job(folder / "embedded"), "--json-logs"]
        alone = {
            "endpoints, no router": (_write_endpoints(folder, server.url, {}), "score"),
            "endpoints, no router, first request": (_write_endpoints(folder, server.url, {}), "small"),
            "endpoints, a tiny router": (_write_endpoints(folder, server.url, _router_of(run[3])), "score"),
            "a tiny router": (run, "score"),
            "embedded models": (embedded, "score"),
        }
        processor: dict[str, list[float]] = {rule: [] for rule in alone}

        def of_one_process(rule: str) -> float:
            command, stage = alone[rule]
            seconds, own = _first_unit(folder, [sys.executable, *command], stage, alone=True)
            processor[rule].append(own)
            return seconds

        ranks = [sys.executable, *run, "--processes", str(RANKS)]
        rules: dict[str, Callable[[], float]] = {
            **{rule: functools.partial(of_one_process, rule) for rule in alone},
            f"--processes {RANKS}": lambda: _first_unit(folder, ranks)[0],
            f"torchrun, {RANKS} ranks": lambda: _first_unit(folder, [*TORCHRUN, *run])[0],
            "--engine ray, a new cluster": lambda: _first_unit(folder, [sys.executable, *run, "--engine", "ray"])[0],
            "of these: imports": lambda: _seconds(folder, [sys.executable, "-c", IMPORTS]),
            "torchrun until its ranks begin": lambda: _of_ranks(folder, "began"),
            "ranks meet (joined)": lambda: _of_ranks(folder, "joined"),
            "instead: accelerate's process group (gloo)": lambda: _of_ranks(folder, "accelerator"),
        }
        if arguments.only:
            rules = {rule: measure for rule, measure in rules.items() if any(one in rule for one in arguments.only)}
        found: dict[str, list[float]] = {rule: [] for rule in rules}
        for _ in range(1 if arguments.quick else arguments.repeats):
            for rule, measure in rules.items():
                found[rule].append(measure())
                print(f"{rule}: {found[rule][-1]:.2f} s", file=sys.stderr, flush=True)
        looking = processor_seconds(folder, run[3], embedded[3], 1 if arguments.quick else 5)
    print("| until the first unit begins | seconds | processor seconds |")
    print("|---|---|---|")
    for rule, seconds in found.items():
        own = f"{statistics.median(processor[rule]):.2f}" if rule in processor else ""
        print(f"| {rule} | {statistics.median(seconds):.2f} | {own} |")
    print("| command | processor seconds |")
    print("|---|---|")
    for command, figure in looking.items():
        print(f"| `{command}` | {figure:.2f} |")
    print(json.dumps({"cores": os.cpu_count(), "seconds": found, "processor": processor, "commands": looking}))


def processor_seconds(folder: Path, job: str, embedded: str, repeats: int) -> dict[str, float]:
    """Of `--help`, and of the commands that look at a small job's output, or check a job; the median."""
    output = str(folder / "looked-at")
    child([sys.executable, "-m", "batchroute", "run", job, "--set", f"output.uri={output}"])
    commands = {
        "--help": ["--help"],
        "status": ["status", output],
        "verify": ["verify", output],
        "validate": ["validate", job],
        "validate, embedded models": ["validate", embedded],
    }
    return {
        name: statistics.median(child([sys.executable, "-m", "batchroute", *rest])[1] for _ in range(repeats))
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


def _write_endpoints(folder: Path, url: str, router: dict[str, Any]) -> list[str]:
    """The command of a job whose models are endpoints. Without a router it decides after the small model's answers."""
    model = {"backend": "openai", "endpoint": url, "price": {"input": 1, "output": 1}}
    settings = {
        "input": {"uri": str(folder / "in.parquet"), "id": "id", "prompt": "prompt"},
        "output": {"uri": str(folder / "out")},
        "policy": {"small_share": "50%", **({} if router else {"decide": "after"})},
        "models": {"small": {**model, "model": "small"}, "large": {**model, "model": "large"}},
        **router,
    }
    path = folder / f"endpoints-{len(router)}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return ["-m", "batchroute", "run", str(path), "--json-logs"]


def _router_of(job: str) -> dict[str, Any]:
    return {"router": yaml.safe_load(Path(job).read_text())["router"]}


def _first_unit(folder: Path, command: Sequence[str], stage: str = "score", alone: bool = False) -> tuple[float, float]:
    """Seconds from the command to a stage's first unit, and the process's own until there is that unit's receipt.

    Args:
        alone: the command is one process, which need not go on from there.
    """
    output = folder / f"out-{time.time_ns()}"
    work = output.with_name(f"{output.name}.work")
    whole = [*command, "--set", f"output.uri={output}", "--set", "units.score=100"]
    started = time.time()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(whole, env=_environment(folder), stdout=said, stderr=said)
        used, own = 0.0, psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                if not any(work.glob(f"*/{stage}/*.json")):
                    used = sum(own.cpu_times()[:2])
                elif alone:
                    process.terminate()
                    process.wait()
            time.sleep(0.005)
        said.seek(0)
        assert process.returncode == 0 or (alone and process.returncode == EXIT_TERMINATED), said.read()[
            -2000:
        ].decode()
    receipts = [json.loads(path.read_text()) for path in work.glob(f"*/{stage}/*.json")]
    return float(min(receipt["finished"] - receipt["seconds"] for receipt in receipts)) - started, used


def _of_ranks(folder: Path, what: str) -> float:
    """Of the rank that came last to what all of them do: how long it took, see `rank`."""
    places = folder / f"ranks-{time.time_ns()}"
    places.mkdir()
    started = time.time()
    _seconds(folder, [*TORCHRUN, __file__, "--rank", what, str(places)])
    figures = [float(path.read_text()) for path in places.iterdir()]
    assert len(figures) == RANKS
    return max(figures) - started if what == "began" else min(figures)


def _environment(folder: Path) -> dict[str, str]:
    here = {"PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "sk-test"}
    # One thread each, as two ranks on two cores have; for Ray a folder of its own, where no cluster of others is named.
    return {**os.environ, **here, "OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(folder)}


def _seconds(folder: Path, command: Sequence[str]) -> float:
    started = time.perf_counter()
    ended = subprocess.run(command, env=_environment(folder), capture_output=True, text=True, check=False)
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
