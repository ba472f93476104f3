"""What a router reads: the prompt alone, or as a reader of answers the prompt and the small model's answer together."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from batchroute import models
from batchroute.errors import InputError
from batchroute.router.notes import CALIBRATION_FILE, CONFIDENCE_FILE, REFERENCE_FILE, ROUTER_FILE, read_json

Reads = Literal["prompt", "answer"]

READS = "reads"
"""The key of `router.json`; without it a router reads prompts."""

# Both together are what n-grams are made of, see `batchroute.router.heads.ngrams.CHARACTERS`.
_HALF = 990
_GAP = " … "


def joined(prompt: str, answer: str) -> str:
    """The text that a reader of answers reads: the prompt, and below it the answer.

    Each keeps its first and last 990 characters, so that neither pushes the other out. What is more than the
    encoder's `max_length` tokens is cut out of the middle (`batchroute.router.scoring.encode`): the beginning of the
    prompt and the end of the answer stay.
    """
    return f"{_shortened(prompt.strip())}\n\n{_shortened(answer.strip())}"


def _shortened(text: str) -> str:
    return text if len(text) <= 2 * _HALF else text[:_HALF] + _GAP + text[-_HALF:]


def identity_of(reader: str) -> str:
    """The digest of a reader's folder, by which runs and calibrations know it."""
    return models.identity(reader, ignore=[CALIBRATION_FILE, REFERENCE_FILE, CONFIDENCE_FILE])


def reads_of(name: str) -> Reads:
    """What a router reads, by its directory; `prompt` for one that `train` did not make.

    Raises:
        InputError: `router.json` is damaged, or there is no such router.
    """
    values = read_json(Path(models.resolve(name)) / ROUTER_FILE) or {}
    return "answer" if values.get(READS) == "answer" else "prompt"


def check_reads(name: str, wanted: Reads) -> None:
    """Raises:
    InputError: a reader of answers stands where a router of prompts is needed, or the other way round; or as
        `reads_of`.
    """
    if wanted == "answer" and not Path(models.resolve(name)).is_dir():
        raise InputError(f"there is no reader '{name}': name a directory that 'batchroute train --reads answer' wrote")
    if reads_of(name) == wanted:
        return
    if wanted == "prompt":
        raise InputError(
            f"'{name}' reads prompts with answers, and here prompts are read alone: name it with --reader, or in a job "
            "as models.small.confidence.reader"
        )
    raise InputError(
        f"'{name}' is no reader of answers: it reads prompts alone, so name it as a router, and make a reader by "
        "'batchroute train --reads answer'"
    )
