"""Whose GPUs are whose, on machines that are descriptions: ranks, copies of models that are spread over several."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers import loading
from batchroute.generators.vllm.gpus import environments
from batchroute.hardware import devices


@pytest.fixture
def eight_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (100 + gpu, 200))


def spec(backend: str, **settings: Any) -> ModelSpec:
    return ModelSpec.model_validate({"backend": backend, "model": "some/model", **settings})


@pytest.mark.usefixtures("eight_gpus")
@pytest.mark.parametrize(
    ("each", "shares"),
    [
        (1, [[0], [1], [2], [3], [4], [5], [6], [7]]),
        (2, [[0, 1], [2, 3], [4, 5], [6, 7], [], [], [], []]),
        (3, [[0, 1, 2], [3, 4, 5], [], [], [], [], [], []]),
        (None, [[0, 1, 2, 3, 4, 5, 6, 7], [], [], [], [], [], [], []]),
        # The loader says that there are too few.
        (16, [[0, 1, 2, 3, 4, 5, 6, 7], [], [], [], [], [], [], []]),
    ],
)
def test_a_machine_has_as_many_copies_of_a_model_as_its_gpus_hold(each: int | None, shares: list[list[int]]) -> None:
    assert [devices.gpus_of_rank(rank, 8, each) for rank in range(8)] == shares


@pytest.mark.usefixtures("eight_gpus")
def test_the_only_rank_of_a_machine_has_all_gpus() -> None:
    assert devices.gpus_of_rank(0, 1, 2) is None


def test_without_gpus_every_rank_takes_part() -> None:
    assert torch.cuda.device_count() == 0
    assert [devices.gpus_of_rank(rank, 2, 4) for rank in (0, 1)] == [None, None]


@pytest.mark.parametrize(
    ("model", "gpus"),
    [
        (spec("transformers"), 1),
        (spec("transformers", tensor_parallel=4), 4),
        (spec("transformers", device_map="auto", tensor_parallel=2), 2),
        (spec("transformers", device_map="auto"), None),
        (spec("vllm", tensor_parallel=2, data_parallel=2), 4),
        (spec("vllm", engine={"tensor_parallel_size": 2, "pipeline_parallel_size": 2}), 4),
        (spec("echo"), 1),
    ],
)
def test_what_a_copy_of_a_model_is_spread_over(model: ModelSpec, gpus: int | None) -> None:
    assert model.gpus_of_a_copy == gpus


@pytest.mark.usefixtures("eight_gpus")
@pytest.mark.parametrize(
    ("settings", "mine", "memory"),
    [
        ({"tensor_parallel": 2}, [2, 3], {2: 102, 3: 103}),
        ({"tensor_parallel": 2}, None, {0: 100, 1: 101}),
        ({"device_map": "auto"}, None, None),
        ({}, [3], None),
    ],
)
def test_layers_are_put_on_the_gpus_of_the_rank_alone(
    settings: dict[str, Any], mine: list[int] | None, memory: dict[int, int] | None
) -> None:
    model = spec("transformers", **settings)
    placed = loading._placement(model, LlamaConfig(), torch.device("cpu"), torch.float32, mine)
    assert placed.get("max_memory") == memory
    assert placed.get("device_map") == ("auto" if settings else None)


def test_vllm_sees_the_gpus_of_its_rank_and_nothing_of_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c,GPU-d,GPU-e,GPU-f,GPU-g,GPU-h")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    alone = environments(spec("vllm", tensor_parallel=2), [2, 3])
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in alone] == ["GPU-c,GPU-d"]
    copies = environments(spec("vllm", tensor_parallel=2, data_parallel=2), [4, 5, 6, 7])
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in copies] == ["GPU-e,GPU-f", "GPU-g,GPU-h"]
    for environment in (*alone, *copies):
        assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID"} & environment.keys()


class TestBfloat16:
    CPU = torch.device("cpu")

    @pytest.fixture(autouse=True)
    def _forget(self) -> None:
        devices.bfloat16_pays.cache_clear()

    def taken(self, checkpoint: torch.dtype | None) -> torch.dtype:
        return devices.precision("auto", self.CPU, checkpoint, (64, 32))

    def test_with_amx_weights_published_in_it_are_computed_in_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "_cpu_flags", lambda: frozenset({"amx_bf16", "avx512_bf16"}))
        monkeypatch.setattr(devices, "_gain", lambda *shape: pytest.fail("AMX needs no measurement"))
        assert self.taken(torch.bfloat16) == torch.bfloat16
        for checkpoint in (torch.float32, torch.float16, None):
            assert self.taken(checkpoint) == torch.float32
        assert devices.precision("float32", self.CPU, torch.bfloat16) == torch.float32

    @pytest.mark.parametrize(("gain", "expected"), [(0.5, torch.float32), (1.3, torch.float32), (1.8, torch.bfloat16)])
    def test_with_other_instructions_it_must_be_clearly_faster(
        self, monkeypatch: pytest.MonkeyPatch, gain: float, expected: torch.dtype
    ) -> None:
        shapes: list[tuple[int, ...]] = []

        def measured(*shape: int) -> float:
            shapes.append(shape)
            return gain

        monkeypatch.setattr(devices, "_cpu_flags", lambda: frozenset({"avx512_bf16"}))
        monkeypatch.setattr(devices, "_gain", measured)
        assert [self.taken(torch.bfloat16) for _ in range(2)] == [expected] * 2
        assert shapes == [(64, 32)]

    def test_a_cpu_without_instructions_for_it_is_not_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "_cpu_flags", lambda: frozenset({"avx2"}))
        monkeypatch.setattr(devices, "_gain", lambda *shape: pytest.fail("it cannot be faster"))
        assert self.taken(torch.bfloat16) == torch.float32

    def test_the_measurement_is_of_both_precisions(self) -> None:
        assert 0 < devices._gain(64, 32) < 1_000

    def test_this_cpus_flags_can_be_read(self) -> None:
        assert isinstance(devices._cpu_flags(), frozenset)
