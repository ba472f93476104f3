"""What `doctor` says of a job's cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchroute.commands.doctor.secrets import redactor
from batchroute.commands.doctor.storage import cache_of
from batchroute.config.job import Job
from batchroute.errors import InputError


def job(folder: Path, **cache: Any) -> Job:
    tree: dict[str, Any] = {
        "input": {"uri": str(folder / "in.parquet")},
        "output": {"uri": str(folder / "out")},
        "policy": {"small_share": "50%", "decide": "after"},
        "models": {"small": {"backend": "echo"}, "large": {"backend": "echo"}},
    }
    return Job.model_validate({**tree, "cache": cache} if cache else tree)


def test_a_cache_is_writable_and_holds_answers_in_clear(tmp_path: Path) -> None:
    assert [*cache_of(job(tmp_path))] == []
    (finding,) = cache_of(job(tmp_path, uri=str(tmp_path / "cache")))
    assert (finding.mark, finding.text) == (
        "ok", f"{tmp_path}/cache is writable; its files hold answers in clear"
    )  # fmt: skip
    assert not (tmp_path / "cache").exists()


def test_a_cache_in_the_output_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cache\.uri .* and output\.uri .* lie in one another"):
        [*cache_of(job(tmp_path, uri=str(tmp_path / "out" / "cache")))]


def test_secret_options_of_a_cache_are_hidden(tmp_path: Path) -> None:
    hidden = redactor({}, job(tmp_path, uri="s3://bucket/cache", storage_options={"secret": "abc-def-ghi"}))
    assert "abc-def-ghi" not in hidden.text("the key abc-def-ghi is wrong")
