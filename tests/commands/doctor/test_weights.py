"""Whether weights fit: sizes of real files, on GPUs that are descriptions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from batchroute.commands.doctor import weights
from batchroute.commands.doctor.finding import Finding
from batchroute.commands.doctor.gpus import Gpu, Gpus
from batchroute.commands.doctor.machine import Machine
from batchroute.generators.settings import ModelSpec
from batchroute.hardware import devices
from batchroute.hardware.container import Limits
from tests.support.tiny_models import tiny_router

GIB = 1 << 30
A100 = Gpu(0, "NVIDIA A100", 40 * GIB, 40 * GIB, (8, 0), bf16=True)


def spec(backend: str = "transformers", **settings: Any) -> ModelSpec:
    return ModelSpec.model_validate({"backend": backend, "model": "m", **settings})


def fit(gibibytes: float, gpus: int, model: ModelSpec, **gpu: Any) -> Finding:
    seen = tuple(dataclasses.replace(A100, number=number, **gpu) for number in range(gpus))
    return weights.fit("small", "m", int(gibibytes * GIB), "in bfloat16", model, Machine({}, Limits(), Gpus(seen)))


def test_parameters_are_counted_by_the_headers_of_one_file_or_of_many(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_router(tmp_path / "a"))
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    assert weights.weights_in(tmp_path / "a").parameters == count
    model.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 1
    assert weights.weights_in(tmp_path / "b").parameters == count
    assert weights.needed(tmp_path / "a", spec(), on_gpu=False) == (4 * count, "in float32")
    assert weights.needed(tmp_path / "a", spec(dtype="bfloat16"), on_gpu=False) == (2 * count, "in bfloat16")
    assert weights.needed(tmp_path / "a", spec(quantization="nf4"), on_gpu=False) == (count // 2, "in nf4")


def test_the_precision_that_auto_takes_on_a_cpu_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_router(tmp_path / "a")
    AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    monkeypatch.setattr(devices, "_cpu_flags", lambda: frozenset({"amx_bf16"}))
    devices.bfloat16_pays.cache_clear()
    taken, how = weights.needed(folder, spec(), on_gpu=False)
    assert how == "in bfloat16, which this CPU is faster in (dtype: auto)"
    # A router computes in float32 all the same.
    assert weights.needed(folder, spec(), on_gpu=False, is_router=True) == (2 * taken, "in float32")
    devices.bfloat16_pays.cache_clear()


def test_packed_weights_and_pickles_take_what_their_files_take(tmp_path: Path) -> None:
    folder = tiny_router(tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    taken = (folder / "model.safetensors").stat().st_size
    assert weights.needed(folder, spec(), on_gpu=False) == (taken, "as it is saved")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert weights.needed(folder, spec(), on_gpu=False) == (taken, "as it is saved")


@pytest.mark.parametrize(
    ("gibibytes", "gpus", "model", "mark", "words", "remedy"),
    [
        (15, 1, spec(), "ok", "a GPU of 40.0 GiB holds it", ""),
        (60, 2, spec(), "problem", "more than a GPU of 40.0 GiB holds", "set tensor_parallel: 2"),
        (60, 2, spec(device_map="auto"), "ok", "2 GPUs of 40.0 GiB hold it", ""),
        (60, 2, spec(tensor_parallel=2), "ok", "2 GPUs of 40.0 GiB hold it", ""),
        (60, 2, spec("vllm"), "problem", "more than a GPU of 40.0 GiB holds", "set tensor_parallel: 2"),
        (60, 2, spec("vllm", tensor_parallel=2), "ok", "2 GPUs of 40.0 GiB hold it", ""),
        (60, 1, spec(), "problem", "2 GPUs of 40.0 GiB would hold it, of 1 here", "use a machine with"),
        (1, 1, spec("vllm", data_parallel=2), "problem", "asks for 2 GPUs, of 1 here", "lower them"),
        (1, 0, spec("vllm"), "problem", "the backend vllm needs a GPU", "use the backend transformers"),
    ],
)
def test_a_model_fits_or_it_is_said_how_many_gpus_would_hold_it(
    gibibytes: float, gpus: int, model: ModelSpec, mark: str, words: str, remedy: str
) -> None:
    finding = fit(gibibytes, gpus, model)
    assert finding.mark == mark
    assert words in finding.text
    assert finding.remedy.startswith(remedy)


def test_memory_that_others_use_is_a_note() -> None:
    finding = fit(15, 1, spec(), free=10 * GIB)
    assert (finding.mark, "10.0 GiB of the GPU's memory are free" in finding.text) == ("note", True)


def test_on_the_cpu_the_containers_limit_counts_and_each_rank_has_its_copy() -> None:
    machine = Machine({}, Limits(memory=2 * GIB, used=0), Gpus())
    assert weights.fit("small", "m", GIB, "in float32", spec(), machine).mark != "problem"
    finding = weights.fit("small", "m", GIB, "in float32", spec(), machine, ranks=2)
    assert finding.mark == "problem"
    assert finding.text == "m: 1.0 GiB in float32 for each of 2 ranks, and this machine's memory is 2.0 GiB"
