"""The job files of API vendors in `jobs/`: `validate` accepts them as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchroute.commands.validate import validate
from batchroute.config import loading
from tests.support.jobs import table
from tests.support.tiny_models import tiny_router

_JOBS = Path(__file__).parents[2] / "jobs"
_KEYS = ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "MISTRAL_API_KEY")
_FILES = ("azure", "anthropic", "anthropic-batch", "gemini-batch", "mistral-batch")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    tiny_router(folder / "router")
    table(3).write_parquet(folder / "in.parquet")
    return folder


@pytest.mark.parametrize("name", _FILES)
def test_validate_accepts_the_job_file(name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in _KEYS:
        monkeypatch.setenv(key, "sk-test")
    monkeypatch.setenv("INPUT", str(place / "in.parquet"))
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    monkeypatch.setenv("ROUTER", str(place / "router"))
    lines = validate(loading.load(str(_JOBS / f"{name}.yaml"), ()))
    assert [line.split()[0] for line in lines if line.startswith(("small", "large"))] == ["small", "large"]
