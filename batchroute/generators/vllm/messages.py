"""What the parent and a vLLM worker send each other over the pipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from batchroute.generators.base import Response
from batchroute.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Load:
    """The model to load.

    Attributes:
        settings: the keys of `ModelSpec` that the job file sets.
        arguments: the arguments of vLLM's `LLM`.
        adapter: a directory or hub id.
    """

    settings: dict[str, Any]
    arguments: dict[str, Any]
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt to answer. If `sampled`, it is answered as extra samples are."""

    index: int
    prompt: Prompt
    seed: int
    sampled: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the worker.

    Attributes:
        what: the model is loaded or not (`error` says why), answers to some rows, all rows are done, or vLLM died.
        answers: by the rows' indices.
        of_input: `error` is a whole sentence about the settings.
        about: of a loaded model: the versions of vLLM and of what it computes with.
    """

    what: Literal["loaded", "not loaded", "answers", "done", "dead"]
    answers: dict[int, Response] = field(default_factory=dict)
    error: str = ""
    of_input: bool = False
    about: str = ""
