"""The whole demo against all of its prompts sent to the large model, by a loop over `model.generate`.

    python -m tests.benchmarks.demo [--repeats 3]

After `jobs/demo.sh`, which makes the router. Both sides are commands of their own, from the start of Python to the
answers on disk. Ours is `batchroute run jobs/demo.yaml`: snapshot, router, both models, the audit by the large model,
merged output and report. The loop has the same chats, limit and stop string, computes in float32, takes the
prompts in the order of the table, and is run one prompt and --batch-size prompts at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import yaml

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "demo.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="each once")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for number in range(1 if arguments.quick else arguments.repeats):
            answers = Path(name) / f"{number}.parquet"
            rules = {
                "batchroute run": [sys.executable, "-m", "batchroute", "run", str(JOB), "--json-logs"],
                "loop, 1": [sys.executable, __file__, "--loop", "1", str(answers)],
                f"loop, {arguments.batch_size}": [
                    sys.executable, __file__, "--loop", str(arguments.batch_size), str(answers),
                ],
            }  # fmt: skip
            for rule, command in rules.items():
                seconds.setdefault(rule, []).append(_seconds(command, Path(name) / f"output-{number}"))
                print(f"{rule:<16}{seconds[rule][-1]:>8.1f} s", flush=True)
    medians = {rule: statistics.median(times) for rule, times in seconds.items()}
    print(f"\n{'way':<16}{'median s':>10}{'ratio':>8}")
    for rule, median in medians.items():
        print(f"{rule:<16}{median:>10.1f}{median / medians['batchroute run']:>8.2f}")
    print(json.dumps({"cores": os.cpu_count(), "seconds": seconds}))


def _seconds(command: list[str], output: Path) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "DEMO_OUTPUT": str(output)}
    started = time.perf_counter()
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return time.perf_counter() - started


def loop(batch_size: int, path: str) -> None:
    """What people write themselves."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from batchroute import models

    job = yaml.safe_load(JOB.read_text())
    large: dict[str, Any] = job["models"]["large"]
    folder = models.resolve(large["model"])
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    table = pl.read_parquet(ROOT / job["input"]["uri"])
    prompts = [prompt for prompt in table["prompt"].to_list() if prompt and prompt.strip()]
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        chats = [
            [{"role": "system", "content": large["system"]}, {"role": "user", "content": prompt}]
            for prompt in prompts[start : start + batch_size]
        ]
        some = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        batch = tokenizer(some, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            found = model.generate(
                **batch,
                do_sample=False,
                max_new_tokens=large["generation"]["max_new_tokens"],
                stop_strings=large["generation"]["stop"],
                tokenizer=tokenizer,
            )
        answers += tokenizer.batch_decode(found[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    pl.DataFrame({"prompt": prompts, "answer": answers}).write_parquet(path)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loop"]:
        loop(int(sys.argv[2]), sys.argv[3])
    else:
        main()
