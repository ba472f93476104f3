from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from batchroute.cli import app
from batchroute.commands.report import write
from batchroute.errors import InputError
from batchroute.reports.headline import headline
from batchroute.reports.page import html as page
from batchroute.reports.page import markdown
from batchroute.storage.local import LocalFolder
from tests.reports import nights


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return committed(tmp_path / "out", 24)


def committed(path: Path, day: int) -> Path:
    folder = LocalFolder(path)
    folder.folder("report").put_new("report.json", nights.full().model_dump_json().encode())
    nights.manifest(day).put(folder)
    return path


def test_the_report_of_one_output_is_written_again_next_to_its_figures(output: Path) -> None:
    (output / "report" / "report.html").write_text("old")
    result = CliRunner().invoke(app, ["report", str(output)])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        headline(nights.full()),
        f"report   {output}/report/report.html",
        f"report   {output}/report/report.md",
    ]
    assert (output / "report" / "report.html").read_text() == page.render(nights.full())
    assert (output / "report" / "report.md").read_text() == markdown.render(nights.full())


def test_the_report_of_one_output_can_go_elsewhere(output: Path, tmp_path: Path) -> None:
    assert write([str(output)], str(tmp_path / "there")) == [
        f"{tmp_path}/there/report.html",
        f"{tmp_path}/there/report.md",
    ]
    assert not (output / "report" / "report.html").exists()


def test_of_several_outputs_the_trend_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [str(committed(tmp_path / f"2026-11-{day}", day)) for day in (20, 19, 18)]
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert write(outputs, None) == [f"{tmp_path}/trend.html", f"{tmp_path}/trend.md"]
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if " UTC" in line] == [
        "2026-11-18",
        "2026-11-19",
        "2026-11-20",
    ] * 2
    assert "3 nights cost $273.30 and saved $636.20 (70.0 %) against the large model alone." in shown
    assert "2026-11-19" in (tmp_path / "trend.html").read_text()
    assert "2026-11-19" in (tmp_path / "trend.md").read_text()


def test_an_output_that_cannot_be_reported_is_one_sentence(output: Path, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "data").write_text("")
    old = committed(tmp_path / "old", 3)
    (old / "report" / "report.json").unlink()
    damaged = committed(tmp_path / "damaged", 4)
    (damaged / "report" / "report.json").write_text('{"format_version": 1}')
    for uris, sentence in (
        ([str(tmp_path / "none")], "none: there is no output"),
        ([str(output), str(tmp_path / "begun")], "begun is not committed: run its job again"),
        ([str(output / "manifest.json")], "is a file; give the output.uri of a job"),
        ([str(old)], "report.json is missing: an earlier batchroute wrote this output"),
        ([str(damaged)], "report.json is damaged, or a newer batchroute wrote it"),
    ):
        with pytest.raises(InputError, match=sentence) as caught:
            write(uris, str(tmp_path / "to"))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "to").exists()
    with pytest.raises(InputError, match="is a file; name a folder"):
        write([str(output)], str(output / "manifest.json"))


def test_an_output_without_a_report_has_its_place_in_the_trend(tmp_path: Path) -> None:
    outputs = [committed(tmp_path / str(day), day) for day in (3, 4)]
    (outputs[0] / "report" / "report.json").unlink()
    assert len(write([str(path) for path in outputs], str(tmp_path))) == 2
