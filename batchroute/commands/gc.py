"""`batchroute gc`: remove work folders of committed runs, files of no run, and uploads that never ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchroute.storage import manifest
from batchroute.storage.folder import Folder
from batchroute.storage.manifest import Manifest
from batchroute.storage.objects import folder_at
from batchroute.storage.parquet import is_ours
from batchroute.storage.workdir import work_root


def collect(
    uri: str, older_than: float, dry_run: bool = False, storage_options: Mapping[str, Any] | None = None
) -> list[str]:
    """Remove what no run needs any more; returns one line for each removed thing.

    A committed output is its manifest and the files that the manifest names; everything else of the run is removed. A
    run that is not committed keeps everything that it can resume from; only parts of unfinished puts are removed.

    Args:
        older_than: seconds; a younger file may belong to a put that is still running.
        dry_run: remove nothing.
    """
    output = folder_at(uri, storage_options)
    lines = []
    for folder in (output, work_root(output)):
        lines += [f"{name}: a put that never ended" for name in folder.leftovers(older_than)]
        if not dry_run:
            folder.remove_leftovers(older_than)
    committed = manifest.read(output)
    if committed is None:
        return lines
    data = output.folder("data")
    for name in _unlisted(data, committed, older_than):
        lines.append(f"{data}/{name}: not in the manifest")
        if not dry_run:
            data.remove(name)
    work = work_root(output)
    if not work.is_empty():
        lines.append(f"{work}: the work of a committed run")
        if not dry_run:
            work.remove_all()
    return lines


def _unlisted(data: Folder, committed: Manifest, older_than: float) -> list[str]:
    known = {file.path for file in committed.files}
    names = [name for name in data.names(".parquet") if f"data/{name}" not in known]
    return [name for name in names if data.age(name) >= older_than and is_ours(data, name)]
