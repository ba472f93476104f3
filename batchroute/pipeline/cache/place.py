"""The place of a cache: apart from the input and the output, and one that can be written."""

from __future__ import annotations

from batchroute.cache.files import CacheFiles
from batchroute.config.job import Job
from batchroute.errors import InputError
from batchroute.pipeline.stages.snapshot import place
from batchroute.storage.folder import Folder
from batchroute.storage.workdir import WORK_SUFFIX
from batchroute.tables.listing import is_glob, matches

_A_FILE = "model-0/2026-01-01/0-small-0-0.parquet"


def cache_folder(job: Job) -> Folder | None:
    """The folder of the job's cache; None if it has none.

    Raises:
        InputError: it is a file, or it and the input or the output lie in one another.
    """
    if job.cache is None:
        return None
    folder, here = CacheFiles(job.cache).folder, place(job.cache.uri, job.cache.storage_options)
    if folder.is_file():
        raise InputError(f"cache.uri {folder} is a file; name a folder")
    output = place(job.output.uri, job.output.storage_options)
    others = {"output.uri": output, "the work folder of output.uri": f"{output}{WORK_SUFFIX}"}
    if job.input.uri:
        source = place(job.input.uri, job.input.storage_options)
        if not is_glob(source):
            others["the input"] = source
        elif matches(source, f"{here}/{_A_FILE}"):
            raise InputError(
                f"the input {source} matches files of cache.uri {folder}; choose another, or a narrower glob"
            )
    for name, other in others.items():
        if f"{here}/".startswith(f"{other}/") or f"{other}/".startswith(f"{here}/"):
            raise InputError(f"cache.uri {folder} and {name} {other} lie in one another; choose another folder for it")
    return folder
