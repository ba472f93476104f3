"""vLLM itself, on a CPU, in an environment of its own (`jobs/environment.sh vllm`).

One start of its engine, and one more after a kill, serve all tests, which run in the order of this file.
`tests/run.sh --vllm` also kills each process of an engine in turn, and asks `vllm serve`.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from batchroute import generators
from batchroute.generators.base import Response
from batchroute.generators.settings import ModelSpec
from batchroute.generators.vllm.generator import VllmGenerator
from batchroute.generators.vllm.messages import Load, Row
from batchroute.generators.vllm.process import Worker
from batchroute.models import resolve
from batchroute.prompt import Prompt
from tests.support.vllm_server import VllmServer

PYTHON = Path(__file__).parents[3] / ".venv-vllm/bin/python"
MODEL = "embedded:smollm2-135m-instruct"
ALL = "TEST_ALL_OF_VLLM" in os.environ
PROMPTS: list[Prompt] = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    [
        {"role": "user", "content": "Say hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "And bye?"},
    ],
    "Name three colours.",
]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-vllm: jobs/environment.sh vllm makes it"),
]
slow = pytest.mark.skipif(not ALL, reason="another start of the engine: tests/run.sh --vllm")


def spec(backend: str = "vllm", **settings: Any) -> ModelSpec:
    if backend == "vllm":
        # As small as the engine gets. A prompt would be cut in chunks of 256 tokens if other rows left less room.
        settings["python"] = str(PYTHON)
        settings["engine"] = {
            "enforce_eager": True, "max_model_len": 256, "max_num_batched_tokens": 256, "max_num_seqs": 8
        }  # fmt: skip
    return ModelSpec(backend=backend, model=MODEL, dtype="float32", generation={"max_new_tokens": 12}, **settings)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        # Not bound to cores that other tests use.
        patched.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        patched.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmGenerator]:
    with closing(VllmGenerator(spec(confidence={"samples": 2}))) as generator:
        yield generator


@pytest.fixture(scope="module")
def expected() -> list[Response]:
    """What transformers answers."""
    with closing(generators.load(spec("transformers", confidence={}), lambda: torch.device("cpu"))) as generator:
        return generator.generate(PROMPTS, [0] * len(PROMPTS))


def are_alike(answers: list[Response], expected: list[Response]) -> None:
    for answer, wanted in zip(answers, expected, strict=True):
        assert (answer.text, answer.finish_reason) == (wanted.text, wanted.finish_reason)
        assert (answer.input_tokens, answer.output_tokens) == (wanted.input_tokens, wanted.output_tokens)
        assert answer.logprob == pytest.approx(wanted.logprob, abs=1e-3)
        assert answer.logprob_low == pytest.approx(wanted.logprob_low, abs=1e-3)


def is_a_colour(answer: Response) -> bool:
    return json.loads(answer.text or "null") in ({"colour": "red"}, {"colour": "blue"})


def processes(generator: VllmGenerator) -> dict[str, psutil.Process]:
    """The worker and the processes of its engine, by their names."""
    worker = generator._copies[0]._worker
    assert worker is not None
    below = {process: process.cmdline() for process in psutil.Process(worker._process.pid).children(recursive=True)}
    named = {words[0].strip(): process for process, words in below.items() if words and words[0].startswith("VLLM::")}
    return {"worker": psutil.Process(worker._process.pid), **named}


def all_gone(processes: dict[str, psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(list(processes.values()), timeout=30)
    return not alive


def test_answers_equal_those_of_transformers(engine: VllmGenerator, expected: list[Response]) -> None:
    are_alike(engine.generate(PROMPTS, [0] * len(PROMPTS)), expected)
    assert engine.load_seconds > 0
    assert engine.notes[0].startswith("vLLM 0.32.0")
    assert engine.notes[0].endswith(f", in {PYTHON}")


def test_rows_that_it_cannot_take_fail_alone(engine: VllmGenerator) -> None:
    good, long, broken, other = engine.generate(["Hello.", "word " * 300, "half \ud83d", "Bye."], [0] * 4)
    assert (good.error_type, long.error_type, broken.error_type, other.error_type) == (
        None, "too_long", "model_error", None
    )  # fmt: skip
    assert "do not fit the model's context of 256" in (long.error or "")
    assert broken.error == "the tokenizer cannot read the prompt: it holds half of a surrogate pair"


def test_samples_of_many_rows_by_their_seeds(engine: VllmGenerator) -> None:
    # Together more tokens than the engine takes at once.
    prompts: list[Prompt] = [f"{'The fox jumps over the dog. ' * (4 * row)}Number {row}?" for row in range(1, 7)]
    first = engine.sample(prompts, [[2 * row, 2 * row + 1] for row in range(len(prompts))])
    again = engine.sample(prompts[:1], [[0, 1]])
    assert all(sample.error_type is None for samples in first for sample in samples)
    assert [sample.text for sample in again[0]] == [sample.text for sample in first[0]]
    assert first[0][0].text != first[0][1].text


def test_a_killed_engine_is_started_again(engine: VllmGenerator) -> None:
    before, (load_seconds, notes) = processes(engine), (engine.load_seconds, len(engine.notes))
    assert len(before) >= 3, before
    (copy,) = engine._copies
    started = time.monotonic()
    before["VLLM::EngineCore"].send_signal(signal.SIGKILL)
    # The rest of this file wants a schema.
    settings = spec(response_format=FORMAT).model_dump(exclude_unset=True)
    load = copy._start_worker.args[0]
    copy._start_worker = functools.partial(Worker, Load(settings, load.arguments), *copy._start_worker.args[1:])
    answers = engine.generate(["What colour has the sky?", "What colour has blood?"], [0, 0])
    took = time.monotonic() - started
    assert all(map(is_a_colour, answers)), answers
    assert all_gone(before)
    (note,) = engine.notes[notes:]
    assert note.startswith("vLLM died: ")
    assert "it was started again in" in note
    assert 0 < engine.load_seconds - load_seconds <= took


def test_a_worker_of_the_engine_that_is_killed_while_it_works(engine: VllmGenerator) -> None:
    before = processes(engine)
    (copy,) = engine._copies
    (name,) = (name for name in before if name.startswith("VLLM::Worker"))
    before[name].send_signal(signal.SIGKILL)
    assert not copy._ask([Row(0, "What colour has the sea?", 0)], {})
    assert all_gone(before)
    assert "ended" in copy._died_of or "Error" in copy._died_of


@slow
@pytest.mark.parametrize("killed", ["VLLM::Worker, by the test before", "worker"])
def test_it_starts_again_whichever_process_died(engine: VllmGenerator, killed: str) -> None:
    if killed == "worker":
        processes(engine)[killed].send_signal(signal.SIGKILL)
    notes = len(engine.notes)
    (answer,) = engine.generate(["What colour has the sky?"], [0])
    assert is_a_colour(answer), answer
    assert len(engine.notes) == notes + 1


@slow
def test_vllm_serve_behind_an_endpoint(expected: list[Response], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with VllmServer(PYTHON, Path(resolve(MODEL))) as server:
        model = ModelSpec(
            backend="openai", model=server.model, endpoint=server.url, generation={"max_new_tokens": 12}, confidence={}
        )
        with closing(generators.load(model, lambda: torch.device("cpu"))) as generator:
            are_alike(generator.generate(PROMPTS, [0] * len(PROMPTS)), expected)
            (long,) = generator.generate(["word " * 300], [0])
        assert long.error_type == "too_long"
        constrained = model.model_copy(update={"response_format": FORMAT})
        with closing(generators.load(constrained, lambda: torch.device("cpu"))) as generator:
            (answer,) = generator.generate(["What colour has the sky?"], [0])
        assert is_a_colour(answer), answer
