"""What the pages show of `batchroute` as a library runs as it stands there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from batchroute.errors import InputError
from tests.docs.test_pages import ROOT, Block, blocks
from tests.support.jobs import table
from tests.support.pictures import undrawn_pictures
from tests.support.tiny_models import tiny_router

BLOCKS = [block for block in blocks("python") if "import batchroute\n" in block.text]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: prompts, a router and a job file."""
    folder = tmp_path_factory.mktemp("python")
    table(40).write_parquet(folder / "prompts.parquet")
    tiny_router(folder / "models" / "router")
    job = {
        "input": {"uri": "prompts.parquet", "id": "id"},
        "output": {"uri": "answers/tonight"},
        "router": {"model": "models/router"},
        "policy": {"small_share": "60%"},
        "models": {"small": {"backend": "echo"}, "large": {"backend": "echo"}},
    }
    (folder / "nightly.yaml").write_text(yaml.safe_dump(job))
    return folder


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_the_example_runs(
    block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    with undrawn_pictures():
        exec(compile(block.text, block.place, "exec"), names)
        if "night" in names:
            assert names["night"]("2026-11-25")["event"] == "done"  # type: ignore[operator]
            with pytest.raises(
                RuntimeError, match=r"^no retry: .* holds the committed output of another job: "
            ) as raised:
                names["night"]("tonight")  # type: ignore[operator]
            assert isinstance(raised.value.__cause__, InputError)
    if block.page == ROOT / "README.md":
        assert capsys.readouterr().out.startswith("Routing 40 prompts")
        assert names["answers"].collect().height == 40  # type: ignore[attr-defined]


def test_the_pages_have_examples() -> None:
    assert {block.page for block in BLOCKS} == {ROOT / "README.md", ROOT / "jobs" / "README.md"}
