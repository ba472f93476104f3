"""`batchroute models list`."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchroute.models import embedded
from batchroute.models.embedded import Hub
from batchroute.models.embedded.listing import show
from tests.models.embedded.packages import know


def test_the_list_names_size_licence_sources_and_what_is_here(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    know(monkeypatch, links, converted_bytes=12_345_678, hub=Hub("org/tiny-GGUF", "tiny.gguf"))
    expected = ["demo", "0.0 MB", "12 MB", "MIT", "2 packages, tiny-part0 to tiny-part1; model hub, org/tiny-GGUF"]

    def listed() -> list[str]:
        show(embedded.entries())
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == f"in {cache}; a job names one as model: embedded:NAME"
        (line,) = [line for line in lines if "tiny" in line and "embedded:" not in line]
        return [cell.strip() for cell in line.split("  ") if cell.strip()]

    assert listed() == ["tiny", "no", *expected]
    (cache / ".tiny.partial/wheels").mkdir(parents=True)
    (cache / ".tiny.partial/wheels/some.whl").write_bytes(bytes(2_500_000))
    assert listed() == ["tiny", "begun, 2.5 MB", *expected]
    embedded.fetch()
    assert listed() == ["tiny", "yes", *expected]
