"""GPUs as torch tells of them: these are descriptions, since the machines that run the tests have none."""

from __future__ import annotations

import dataclasses

import pytest

from batchroute.commands.doctor.gpus import Gpu, Gpus, findings, look, runs_on

GIB = 1 << 30
H100 = Gpu(0, "NVIDIA H100", 80 * GIB, 79 * GIB, (9, 0), bf16=True)


def test_gpus_of_a_kind_are_one_line() -> None:
    (finding,) = findings(Gpus((H100, dataclasses.replace(H100, number=1)), "CUDA 12.8"), {})
    assert finding.text == "2 × NVIDIA H100, 79.0 GiB of 80.0 GiB free, compute capability 9.0, bf16"


def test_gpus_that_others_use_are_named() -> None:
    taken = dataclasses.replace(H100, number=1, free=3 * GIB)
    _, finding = findings(Gpus((H100, taken), "CUDA 12.8"), {})
    assert (finding.mark, finding.text) == ("note", "other processes use the memory of GPU 1")
    assert "CUDA_VISIBLE_DEVICES" in finding.remedy


def test_a_gpu_that_this_torch_has_no_code_for_is_a_problem() -> None:
    _, finding = findings(Gpus((dataclasses.replace(H100, supported=False),), "CUDA 11.8"), {})
    assert (finding.mark, finding.text) == ("problem", "this torch (CUDA 11.8) has no code for a NVIDIA H100")


@pytest.mark.parametrize(
    ("capability", "runs"), [((7, 5), False), ((8, 0), True), ((8, 9), True), ((9, 0), False), ((12, 0), True)]
)
def test_machine_code_runs_on_later_minor_versions_and_the_other_kind_on_all_later_ones(
    capability: tuple[int, int], runs: bool
) -> None:
    assert runs_on(["sm_80", "sm_86", "compute_100"], capability) is runs


@pytest.mark.parametrize(
    ("gpus", "visible", "words", "remedy"),
    [
        (Gpus(sign="/dev/nvidia0"), None, "a CPU build", "install a CUDA build of torch"),
        (Gpus(build="CUDA 12.8", sign="nvidia-smi"), "", "CUDA_VISIBLE_DEVICES is ''", "unset CUDA_VISIBLE_DEVICES"),
        (Gpus(build="CUDA 12.8", sign="nvidia-smi"), "-1", "CUDA_VISIBLE_DEVICES is '-1'", "unset"),
        (
            Gpus(
                build="CUDA 12.8", error="The NVIDIA driver on your system is too old (found version 11040).", sign="x"
            ),
            None,
            "the driver is too old for a torch of CUDA 12.8",
            "update the NVIDIA driver",
        ),
        (Gpus(build="CUDA 12.8", error="Unknown error 999", sign="x"), None, "Unknown error 999", "--gpus all"),
    ],
)
def test_a_gpu_that_torch_does_not_see_is_a_problem_with_its_own_remedy(
    gpus: Gpus, visible: str | None, words: str, remedy: str
) -> None:
    (finding,) = findings(gpus, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert finding.mark == "problem"
    assert words in finding.text
    assert remedy in finding.remedy


def test_a_machine_without_a_gpu_is_no_problem() -> None:
    (finding,) = findings(Gpus(error="Torch not compiled with CUDA enabled"), {"CUDA_VISIBLE_DEVICES": ""})
    assert finding.mark == "note"


def test_looking_agrees_with_torch() -> None:
    import torch

    assert len(look().seen) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
