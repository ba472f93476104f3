"""How much faster two workers score than one: ranks, and the actors of a Ray cluster on this machine.

    python tests/benchmarks/ranks.py [--prompts FILE.parquet] [--rows 2000] [--workers 2] [--quick]

Runs the whole command, with one thread in each worker and `echo` models, and looks at the receipts of the score stage:
from the moment at which the first unit began to the end of the last, so that starting and loading do not count. The
ways take turns, so that all meet the same neighbours on the machine. `busy` is the share of that time in which the
workers were at a unit; `unit` is what a unit took, over what it took a single process: more than 1 where workers share
memory and caches. The speed-up is workers * busy / unit. `apart` are as many runs at once, each of a part of the rows,
that share nothing: what the machine has to give. Without --prompts they are made, as long as real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import yaml

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS")
ROUTER = Path("~/.cache/batchroute/demo-router").expanduser()
ALONE = "one process"


@dataclass(frozen=True)
class Stage:
    """The score stage of one run.

    Attributes:
        seconds: from the begin of the first unit to the end of the last.
        in_units: seconds of all units.
        load: tasks that waited for a core before the run began, those of other programs.
    """

    seconds: float
    in_units: float
    load: float


def main() -> None:
    arguments = _arguments()
    workers = arguments.workers
    whole = "in.parquet"
    rules = {
        ALONE: ([], [whole]),
        f"{workers} ranks": (["--processes", str(workers)], [whole]),
        f"Ray, {workers} actors": (["--engine", "ray"], [whole]),
        f"{workers} apart": ([], [f"part-{number}.parquet" for number in range(workers)]),
    }
    found: dict[str, list[Stage]] = {rule: [] for rule in rules}
    with tempfile.TemporaryDirectory() as folder:
        job = _write_job(Path(folder), arguments)
        for repeat in range(1 if arguments.quick else arguments.repeats):
            for rule, (words, inputs) in rules.items():
                found[rule].append(_run(job, f"{repeat}-{rule}".replace(" ", "-"), words, inputs))
                print(f"{repeat + 1}. {rule}: {found[rule][-1].seconds:.2f} s", file=sys.stderr, flush=True)
    figures = {rule: _figures(stages, found[ALONE], 1 if rule == ALONE else workers) for rule, stages in found.items()}
    print("| | score stage | speed-up | busy | unit |")
    print("|---|---|---|---|---|")
    for rule, row in figures.items():
        print(f"| {rule} | {row['seconds']:.1f} s | {row['speed_up']:.2f} | {row['busy']:.0%} | {row['unit']:.2f} |")
    facts = {"rows": arguments.rows, "unit_rows": arguments.unit, "cores": os.cpu_count(), "ways": figures}
    facts["all"] = {rule: [vars(stage) for stage in stages] for rule, stages in found.items()}
    print(json.dumps(facts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, help="parquet, column prompt")
    parser.add_argument("--router", type=Path, default=ROUTER, help="directory; the one that jobs/demo.sh trains")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--unit", type=int, default=64, help="rows of a unit")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="160 rows, once")
    arguments = parser.parse_args()
    if not arguments.router.is_dir():
        parser.error(f"no router in {arguments.router}: run jobs/demo.sh, or give --router")
    if arguments.quick:
        arguments.rows, arguments.unit = min(arguments.rows, 160), 16
    return arguments


def _write_job(folder: Path, arguments: argparse.Namespace) -> Path:
    if arguments.prompts is None:
        prompts = _made(arguments.rows)
    else:
        prompts = pl.read_parquet(arguments.prompts, columns=["prompt"])["prompt"]
        prompts = prompts.sample(min(arguments.rows, len(prompts)), seed=0)
        arguments.rows = len(prompts)
    table = pl.DataFrame({"prompt": prompts}).with_row_index("id")
    table.write_parquet(folder / "in.parquet")
    for number in range(arguments.workers):
        table[number :: arguments.workers].write_parquet(folder / f"part-{number}.parquet")
    settings = {
        "name": "ranks",
        "input": {"uri": str(folder / "in.parquet"), "id": "id", "prompt": "prompt"},
        "output": {"uri": str(folder / "out")},
        "router": {"model": str(arguments.router)},
        "policy": {"small_share": "50%"},
        "models": {"small": {"backend": "echo"}, "large": {"backend": "echo", "model": "echo-2"}},
        "units": {"score": arguments.unit},
        "ray": {"router": {"num_cpus": 1, "max": arguments.workers}},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(settings))
    return folder / "job.yaml"


def _made(rows: int) -> pl.Series:
    """Of lengths as tasks for language models have them: half of them between 36 and 180 words."""
    rng = np.random.default_rng(0)
    words = np.array(["the", "question", "of", "which", "river", "answer", "was", "numbered", "glasses", "thirteen"])
    lengths = np.clip(rng.lognormal(np.log(80), 1.1, rows), 5, 1000).astype(int)
    return pl.Series([" ".join(words[rng.integers(0, len(words), length)]) for length in lengths])


def _run(job: Path, name: str, words: Sequence[str], inputs: Sequence[str]) -> Stage:
    """One run of each input, all at once."""
    command = [sys.executable, "-m", "batchroute", "run", str(job), "--json-logs", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    # A folder of its own: the common one may name a cluster of others, which would then be used.
    environment |= {**dict.fromkeys(THREADS, "1"), "RAY_TMPDIR": str(job.parent)}
    load = os.getloadavg()[0]
    (job.parent / name).mkdir()
    runs, logs = [], [job.parent / name / f"{input_}.log" for input_ in inputs]
    for input_, log in zip(inputs, logs, strict=True):
        settings = [f"input.uri={job.parent / input_}", f"output.uri={job.parent / name / input_}"]
        overrides = [word for setting in settings for word in ("--set", setting)]
        with log.open("w") as file:
            runs.append(subprocess.Popen([*command, *overrides], env=environment, stdout=file, stderr=file))
    assert [run.wait() for run in runs] == [0] * len(runs), [log.read_text()[-2000:] for log in logs]
    receipts = [json.loads(path.read_text()) for path in (job.parent / name).glob("*.work/*/score/*.json")]
    begin = min(receipt["finished"] - receipt["seconds"] for receipt in receipts)
    seconds = max(receipt["finished"] for receipt in receipts) - begin
    return Stage(seconds, sum(receipt["seconds"] for receipt in receipts), load)


def _figures(stages: Sequence[Stage], alone: Sequence[Stage], workers: int) -> dict[str, float]:
    seconds = statistics.median(stage.seconds for stage in stages)
    return {
        "seconds": seconds,
        "speed_up": statistics.median(stage.seconds for stage in alone) / seconds,
        "busy": statistics.median(stage.in_units / stage.seconds / workers for stage in stages),
        "unit": statistics.median(stage.in_units for stage in stages)
        / statistics.median(stage.in_units for stage in alone),
    }


if __name__ == "__main__":
    main()
