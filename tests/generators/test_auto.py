"""`backend: auto`: what it takes on which machine, and who is told why."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from batchroute import generators, models
from batchroute.config.job import JobModel
from batchroute.generators.settings import ModelSpec
from batchroute.pipeline.identity import model_settings
from tests.generators.transformers.tiny_generators import tiny_decoder

AUTO = {"backend": "auto", "model": "m"}
NO_GPU = "this machine has no GPU that torch sees, and on a CPU it loads faster"


@pytest.mark.parametrize(
    ("settings", "installed", "gpu", "backend", "why"),
    [
        ({}, False, True, "transformers", "vLLM is not installed"),
        ({}, True, False, "transformers", NO_GPU),
        ({}, True, True, "vllm", "this machine has a GPU, and vLLM is installed"),
        ({"python": "/opt/vllm/bin/python"}, False, True, "vllm", "this machine has a GPU, and vLLM is installed"),
        ({"python": "/opt/vllm/bin/python"}, False, False, "transformers", NO_GPU),
        ({"allow_pickle": True}, True, True, "transformers", "allow_pickle is set, which vLLM does not take"),
    ],
)
def test_auto_takes_vllm_where_it_is_installed_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], installed: bool, gpu: bool, backend: str, why: str
) -> None:
    _machine(monkeypatch, installed, gpu)
    spec = ModelSpec.model_validate({**AUTO, **settings})
    assert (spec.backend, spec.why_backend) == (backend, why)
    assert spec.python == (settings.get("python") if backend == "vllm" else None)
    # The reason goes where the settings go: to other processes, and into copies.
    assert pickle.loads(pickle.dumps(spec.model_copy(update={"dtype": "float32"}))).why_backend == why


def test_keys_of_speed_that_the_backend_does_not_read_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = {"batch_size": 4, "engine": {"max_num_seqs": 8}, "dtype": "bfloat16"}
    _machine(monkeypatch, installed=True, gpu=True)
    assert ModelSpec.model_validate({**AUTO, **speed}).model_fields_set == {"backend", "model", "engine", "dtype"}
    _machine(monkeypatch, installed=True, gpu=False)
    assert ModelSpec.model_validate({**AUTO, **speed}).model_fields_set == {"backend", "model", "batch_size", "dtype"}


def test_auto_refuses_a_key_that_means_two_things_and_others_as_the_backend_does() -> None:
    for key, value, words in (
        ("quantization", "int8", "quantization has other values with each backend: name the backend instead of auto"),
        ("timeout", 8, "timeout is a setting of the backend anthropic and batch and openai and openai_batch, and this"),
    ):
        with pytest.raises(ValidationError, match=words):
            ModelSpec.model_validate({**AUTO, key: value})


def test_a_run_with_auto_is_the_run_with_the_backend_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "identity", lambda name, **_: f"weights of {name}")
    named = JobModel.model_validate({**AUTO, "backend": "transformers"})
    assert named.why_backend is None
    assert model_settings(JobModel.model_validate(AUTO)) == model_settings(named)


def test_validate_says_what_auto_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _machine(monkeypatch, installed=True, gpu=False)
    model = str(tiny_decoder(tmp_path))
    words = generators.check(ModelSpec.model_validate({"backend": "auto", "model": model}))
    assert words == f"{model}; backend: auto takes transformers: {NO_GPU}"


def _machine(monkeypatch: pytest.MonkeyPatch, installed: bool, gpu: bool) -> None:
    found = importlib.machinery.ModuleSpec("vllm", None) if installed else None
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: found if name == "vllm" else real(name, *rest))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
