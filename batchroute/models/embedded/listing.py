"""The embedded models as a table on the console."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from batchroute import models
from batchroute.models.embedded.fetching import Entry
from batchroute.models.embedded.progress import megabytes
from batchroute.models.embedded.sources import Origin

_LOG_WIDTH = 160


def show(entries: Sequence[Entry]) -> None:
    """Print the table. Where there is no terminal, lines are as long as it needs."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("model", "here", "in"):
        table.add_column(heading)
    for heading in ("download", "on disk"):
        table.add_column(heading, justify="right")
    for heading in ("licence", "sources, in order"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        sizes = megabytes(entry.origin.bytes), megabytes(entry.bytes)
        bundles = ", ".join(entry.bundles)
        table.add_row(entry.name, _here(entry), bundles, *sizes, entry.origin.licence, _sources(entry.origin))
    console.print(table, highlight=False)
    console.print(f"in {models.cache_dir() / 'models'}; a job names one as model: embedded:NAME", soft_wrap=True)


def _here(entry: Entry) -> str:
    if entry.is_here:
        return "yes"
    return f"begun, {megabytes(entry.partial_bytes)}" if entry.partial_bytes else "no"


def _sources(origin: Origin) -> str:
    first, last = origin.wheels[0].package, origin.wheels[-1].package
    packages = f"package {first}" if first == last else f"{len(origin.wheels)} packages, {first} to {last}"
    return packages if origin.hub is None else f"{packages}; model hub, {origin.hub.repository}"
