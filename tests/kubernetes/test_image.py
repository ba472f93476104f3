"""The Dockerfile and its .dockerignore, without an engine. tests/image.sh builds the image and runs a job in it."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from batchroute import __version__

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_context_is_what_the_build_copies_and_nothing_else() -> None:
    top = {path.name for path in ROOT.iterdir() if not _ignored(path.name)}
    copied = {
        source
        for stage in _stages()
        for keyword, rest in stage
        if keyword == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }
    assert top == copied == {"batchroute", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    code = [path.relative_to(ROOT).as_posix() for path in (ROOT / "batchroute").rglob("*")]
    assert {path for path in code if _ignored(path)} == {path for path in code if "__pycache__" in path}


@pytest.mark.parametrize(
    "path",
    [
        ".git/config", ".venv/bin/python", ".env", "tests/test_image.py", "jobs/demo-output/manifest.json",
        "jobs/demo-output.work/run.json", "sample_data/backlog.parquet", ".ruff_cache/x", "dist/batchroute.whl",
        "batchroute/__pycache__/cli.pyc", "batchroute/costs/__pycache__/report.pyc",
    ],
)  # fmt: skip
def test_the_context_leaves_out(path: str) -> None:
    assert _ignored(path)


def test_the_job_is_neither_root_nor_process_1_and_gets_its_sigterm() -> None:
    final = dict(_stages()[-1])
    assert final["USER"] == "10001:10001"
    assert json.loads(final["ENTRYPOINT"]) == ["tini", "--", "batchroute"]
    assert final["STOPSIGNAL"] == "SIGTERM"
    assert final["HEALTHCHECK"] == "NONE"


def test_all_that_is_written_goes_to_the_volume() -> None:
    final = dict(_stages()[-1])
    environment = _environment()
    volumes = json.loads(final["VOLUME"])
    assert volumes == ["/cache"]
    assert environment.items() >= {"HOME": "/cache", "XDG_CACHE_HOME": "/cache"}.items()
    assert environment["HF_HOME"].startswith("/cache/")
    assert environment.items() >= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}.items()
    assert "HF_HUB_OFFLINE" not in environment


def test_the_labels_are_those_of_the_package() -> None:
    arguments = _arguments()
    rest = next(rest for keyword, rest in _stages()[-1] if keyword == "LABEL")
    labels = dict(part.split("=", 1) for part in shlex.split(rest))
    project = _project()
    assert arguments["VERSION"] == project["version"] == __version__
    assert arguments["DESCRIPTION"] == project["description"]
    assert labels == {
        "org.opencontainers.image.title": project["name"],
        "org.opencontainers.image.description": "${DESCRIPTION}",
        "org.opencontainers.image.licenses": project["license"],
        "org.opencontainers.image.version": "${VERSION}",
        "org.opencontainers.image.revision": "${REVISION}",
    }


def test_what_goes_in_is_pinned_and_no_registry_is_named() -> None:
    arguments = _arguments()
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", arguments["PYTHON_IMAGE"])
    assert arguments["CONSTRAINTS"] == "constraints.txt"
    assert arguments["TORCH_INDEX"] == ""
    assert set(arguments["EXTRAS"].split(",")) <= _project()["optional-dependencies"].keys()
    assert {name for stage in _stages() for keyword, name in stage if keyword == "FROM" and "$" not in name} == {
        "builder AS dependencies", "builder AS wheel",
    }  # fmt: skip
    installs = [
        install
        for stage in _stages()
        for keyword, rest in stage
        if keyword == "RUN"
        for install in re.findall(r"pip install [^&]+", rest)
    ]
    assert len(installs) == 3
    assert all('-c "$CONSTRAINTS"' in install or "--no-deps --no-index" in install for install in installs)
    assert "://" not in DOCKERFILE.read_text()


def test_no_compiler_is_in_the_final_image() -> None:
    system = next(rest for keyword, rest in _stages()[-1] if keyword == "RUN" and "apt-get install" in rest)
    packages = re.search(r"--no-install-recommends ([^&]+?) +&&", system)
    assert packages is not None
    assert packages.group(1) == "tini ${SYSTEM_PACKAGES}"
    assert _arguments()["SYSTEM_PACKAGES"] == ""


@cache
def _stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, as keyword and rest; what comes before the first FROM is a stage of its own."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    stages: list[list[tuple[str, str]]] = [[]]
    for instruction in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not instruction.strip():
            continue
        keyword, rest = instruction.split(maxsplit=1)
        if keyword == "FROM":
            stages.append([])
        stages[-1].append((keyword, " ".join(rest.split())))
    return stages


def _arguments() -> dict[str, str]:
    """The build arguments and their defaults."""
    written = [rest for stage in _stages() for keyword, rest in stage if keyword == "ARG"]
    return {name: "".join(shlex.split(value)) for name, _, value in (line.partition("=") for line in written)}


def _environment() -> dict[str, str]:
    written = [rest for keyword, rest in _stages()[-1] if keyword == "ENV"]
    return dict(part.split("=", 1) for line in written for part in shlex.split(line))


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _ignored(path: str) -> bool:
    """Whether .dockerignore leaves `path` out: the last pattern decides that matches it or a folder that it is in."""
    parts = path.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if pattern and not pattern.startswith("#") and any(_matches(folder, pattern) for folder in above):
            ignored = not line.startswith("!")
    return ignored


def _matches(path: str, pattern: str) -> bool:
    """As Docker matches: `*` stays within a folder, `**/` is any number of folders."""
    names, patterns = path.split("/"), pattern.split("/")
    if patterns[0] == "**":
        names, patterns = names[-len(patterns) + 1 :], patterns[1:]
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))
