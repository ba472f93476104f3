"""`batchroute gc`: remove work folders of committed runs, files of no run, and uploads that never ended; of a cache the
answers that no job reads any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchroute.cache.files import expired, marked_days, today
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
    run that is not committed keeps everything that it can resume from; only parts of unfinished puts are removed. A
    cache keeps the days that the job with the most `cache.days` may read; a run that reads a file which is removed
    asks for its answers again.

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
    days = marked_days(output)
    if days is not None:
        return lines + _expired(output, days, dry_run)
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


def _expired(cache: Folder, days: int, dry_run: bool) -> list[str]:
    gone = expired(cache, days, today())
    for day in () if dry_run else gone:
        cache.folder(day).remove_all()
    return [f"{cache}/{day}: older than the {days} days of its jobs" for day in gone]


def _unlisted(data: Folder, committed: Manifest, older_than: float) -> list[str]:
    known = {file.path for file in committed.files}
    names = [name for name in data.names(".parquet") if f"data/{name}" not in known]
    return [name for name in names if data.age(name) >= older_than and is_ours(data, name)]
