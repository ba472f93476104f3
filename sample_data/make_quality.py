"""Makes `quality.parquet`: how well each of the demo's two models answers each prompt of `prompts.parquet`.

    python sample_data/make_quality.py

Each model of `jobs/demo.yaml` answers each prompt five times, by sampling; each response is scored against the
reference answer. That takes some 15 minutes on two idle CPU cores. Finished pieces are kept in `build/`, so that a
stopped run can go on.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from batchroute import generators
from batchroute.fields import SIDES
from batchroute.generators.base import Generator, row_seed
from batchroute.generators.settings import ModelSpec

FOLDER = Path(__file__).parent
JOB = FOLDER.parent / "jobs" / "demo.yaml"
PIECES = FOLDER.parent / "build" / "quality"
SAMPLES, TEMPERATURE, SEED, PIECE = 5, 0.7, 0, 64

_NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
NUMBER_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS.split())}
EXACT, CONTAINED, PARTIAL = 1.0, 0.9, 0.5
METRIC = (
    f"answer-match: {EXACT} the reference and nothing else, {CONTAINED} a first line that holds the reference, "
    f"otherwise {PARTIAL} times the F1 of its words"
)


def words(text: str) -> list[str]:
    """The words of a text, without punctuation and articles; thousands separators and number words become digits."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    parts = re.findall(r"\d+\.\d+|[^\W_]+(?:['’][^\W_]+)*", text)
    return [NUMBER_WORDS.get(part.lower(), part) for part in parts if part.lower() not in {"a", "an", "the"}]


def quality(prompt: str, response: str, reference: str) -> float:
    """How well `response` answers, in [0, 1].

    Only the first line counts. Case counts only if the reference is a word in capitals. A response that names another
    of the prompt's choices ("18 or 28") before the reference does not hold the reference.
    """
    first_line = next((line for line in response.splitlines() if line.strip()), "")
    if not (reference.isupper() and len(reference) > 1):
        prompt, first_line, reference = prompt.lower(), first_line.lower(), reference.lower()
    said, wanted = words(first_line), words(reference)
    if said == wanted:
        return EXACT
    at = next((i for i in range(len(said)) if said[i : i + len(wanted)] == wanted), None)
    if at is not None and not set(said[:at]) & (choices(prompt) - set(wanted)):
        return CONTAINED
    common = sum((Counter(said) & Counter(wanted)).values())
    return PARTIAL * 2 * common / (len(said) + len(wanted))


def choices(prompt: str) -> set[str]:
    """The words on both sides of each "or": `"Is red a tool or a colour?"` offers `{"tool", "colour"}`."""
    offered = words(prompt)
    return {offered[i + step] for i, word in enumerate(offered[:-1]) if word == "or" for step in (-1, 1)}


def sampled_spec(which: str) -> ModelSpec:
    """The demo's model, with sampling instead of greedy decoding."""
    settings: dict[str, Any] = yaml.safe_load(JOB.read_text())["models"][which]
    settings.pop("price", None)
    spec = ModelSpec.model_validate(settings)
    generation = spec.generation.model_copy(update={"temperature": TEMPERATURE, "seed": SEED})
    return spec.model_copy(update={"generation": generation, "batch_size": 32})


def responses(which: str, spec: ModelSpec, prompts: list[str]) -> list[list[dict[str, Any]]]:
    """`SAMPLES` responses to each prompt, with their texts and the tokens read and written. Pieces are kept on disk."""
    # Prompt by prompt, so that rows of a batch have similar lengths and little padding.
    places = [(position, sample) for position in range(len(prompts)) for sample in range(SAMPLES)]
    PIECES.mkdir(parents=True, exist_ok=True)
    generator: Generator | None = None
    answers: list[dict[str, Any]] = []
    started = time.perf_counter()
    for start in range(0, len(places), PIECE):
        piece = places[start : start + PIECE]
        questions = [prompts[position] for position, _ in piece]
        key = {"spec": spec.model_dump(mode="json"), "prompts": questions}
        path = PIECES / f"{which}-{start:05d}.json"
        kept = json.loads(path.read_text()) if path.is_file() else {}
        if kept.get("key") != key:
            generator = generator or generators.load(spec, lambda: torch.device("cpu"))
            answered = generator.generate(questions, [row_seed(SEED, *place) for place in piece])
            new = [
                {"text": answer.text, "read": answer.input_tokens, "written": answer.output_tokens}
                for answer in answered
            ]
            kept = {"key": key, "answers": new}
            path.write_text(json.dumps(kept))
        answers += kept["answers"]
        print(f"{which}: {len(answers)} of {len(places)} responses, {time.perf_counter() - started:.0f} s", flush=True)
    if generator:
        generator.close()
    return [answers[i : i + SAMPLES] for i in range(0, len(answers), SAMPLES)]


def print_means(tasks: list[str], small: np.ndarray, large: np.ndarray) -> None:
    """Print the mean quality of each task: of each model, and of the better model per prompt, which is perfect routing.

    Args:
        small, large: shape (prompts, samples).
    """
    of_task = np.array(tasks)
    means = small.mean(axis=1), large.mean(axis=1)
    print(f"{'task':12} {'prompts':>8} {'small':>6} {'large':>6} {'better':>7}")
    for task in [*sorted(set(tasks)), "all"]:
        chosen = (of_task == task) | (task == "all")
        a, b = means[0][chosen], means[1][chosen]
        print(f"{task:12} {chosen.sum():8} {a.mean():6.3f} {b.mean():6.3f} {np.maximum(a, b).mean():7.3f}")


def main() -> None:
    rows = pq.read_table(FOLDER / "prompts.parquet").to_pylist()
    metadata = {
        "metric": METRIC,
        "sampling": json.dumps({"samples": SAMPLES, "temperature": TEMPERATURE, "seed": SEED}),
    }
    scores: dict[str, list[list[float]]] = {}
    tokens: dict[str, pa.Array] = {}
    for which in SIDES:
        spec = sampled_spec(which)
        metadata[f"{which}_model"] = spec.model
        answers = responses(which, spec, [row["prompt"] for row in rows])
        scores[which] = [
            [quality(row["prompt"], answer["text"], row["reference"]) for answer in of_row]
            for row, of_row in zip(rows, answers, strict=True)
        ]
        tokens[f"{which}_input_tokens"] = pa.array([of_row[0]["read"] for of_row in answers], pa.int32())
        written = [[answer["written"] for answer in of_row] for of_row in answers]
        tokens[f"{which}_output_tokens"] = pa.array(written, pa.list_(pa.int32()))
    columns = {
        "prompt": pa.array([row["prompt"] for row in rows], pa.string()),
        "small_quality": pa.array(scores["small"], pa.list_(pa.float64())),
        "large_quality": pa.array(scores["large"], pa.list_(pa.float64())),
        "id": pa.array([row["id"] for row in rows], pa.string()),
        "task": pa.array([row["task"] for row in rows], pa.string()),
        **tokens,
    }
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), FOLDER / "quality.parquet")
    print_means([row["task"] for row in rows], np.array(scores["small"]), np.array(scores["large"]))


if __name__ == "__main__":
    main()
