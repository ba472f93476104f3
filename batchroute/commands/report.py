"""`batchroute report`: one night's report from its `report.json`, or the trend over several nights' manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchroute.errors import InputError
from batchroute.reports.headline import headline
from batchroute.reports.night import PAGE, TEXT, NightReport
from batchroute.reports.page import html as page
from batchroute.reports.page import markdown
from batchroute.reports.trend import nights as trend
from batchroute.storage import manifest
from batchroute.storage.folder import Folder
from batchroute.storage.manifest import Manifest
from batchroute.storage.objects import folder_at
from batchroute.words import cut

_LOG_WIDTH = 150


def write(uris: Sequence[str], target: str | None, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """Write the report of one output, or the trend over several outputs.

    Args:
        target: folder to write to; None: the output's folder `report`, and for a trend the current folder.

    Returns:
        URIs of the written files.

    Raises:
        InputError: an output is missing, not committed or damaged, or the folder is not writable.
    """
    outputs = [_output(uri, storage_options) for uri in uris]
    committed = [_committed(output) for output in outputs]
    if len(outputs) == 1:
        folder = outputs[0].folder("report") if target is None else folder_at(target, storage_options)
        night = NightReport.of(outputs[0])
        Console().print(headline(night), soft_wrap=True, highlight=False, markup=False)
        return _put(folder, {PAGE: page.render(night), TEXT: markdown.render(night)})
    jobs = trend.series(committed)
    _show(jobs)
    folder = folder_at("." if target is None else target, storage_options)
    return _put(folder, {trend.HTML: trend.render(jobs), trend.MARKDOWN: trend.markdown(jobs)})


def _output(uri: str, storage_options: Mapping[str, Any] | None) -> Folder:
    output = folder_at(uri, storage_options)
    if output.is_file():
        raise InputError(f"{output} is a file; give the output.uri of a job")
    return output


def _committed(output: Folder) -> Manifest:
    committed = manifest.read(output)
    if committed is not None:
        return committed
    if output.is_empty():
        raise InputError(f"{output}: there is no output; give the output.uri of a job that has run")
    raise InputError(f"{output} is not committed: run its job again to finish it, then report")


def _put(folder: Folder, files: Mapping[str, str]) -> list[str]:
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a folder that the report can go into")
    for name, text in files.items():
        # A put never replaces a file: remove the old page first.
        try:
            folder.remove(name)
        except PermissionError as error:
            raise InputError(f"cannot replace {folder}/{name}: {error.strerror}; name another --output") from error
        folder.put_new(name, text.encode())
    return [f"{folder}/{name}" for name in files]


def _show(jobs: Sequence[trend.Series]) -> None:
    """Print the trend, in a log with lines wide enough for the table."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    for shown in jobs:
        table = Table(title=Text(cut(shown.job, 100)), title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("night", no_wrap=True)
        for heading in ("rows", "cost", "large alone", "saved", "small", "expected drop", "audited drop"):
            table.add_column(heading, justify="right")
        table.add_column("drift")
        table.add_column("failed", justify="right")
        for row in trend.table(shown):
            names = ("at", "rows", "cost", "baseline", "saved", "small_share", "expected", "audited", "drift", "failed")
            table.add_row(*(row[name] for name in names))
        console.print(table)
        console.print(trend.headline(shown), soft_wrap=True, highlight=False, markup=False)
