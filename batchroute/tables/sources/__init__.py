"""Where the prompts are: files that are read in place, or a query or table whose rows are fetched once."""

from __future__ import annotations

from batchroute.tables.files import Files
from batchroute.tables.sources.base import InputSpec, Source
from batchroute.tables.text_files import TextFiles


def source_of(spec: InputSpec) -> Source:
    """The source that the settings name. Its module is imported here, since a job has one of them."""
    if spec.warehouse:
        from batchroute.tables.sources.rows import Query

        return Query(spec)
    if spec.delta:
        from batchroute.tables.sources.delta import DeltaVersion

        options = {name: str(value) for name, value in spec.storage_options.items()}
        return DeltaVersion(spec.delta, options, spec.version, spec.timestamp, spec.where)
    if spec.iceberg:
        from batchroute.tables.sources.iceberg import IcebergSnapshot

        return IcebergSnapshot(spec.iceberg, spec.catalog, spec.version, spec.timestamp, spec.where)
    files = files_of(spec)
    if isinstance(files, TextFiles):
        from batchroute.tables.sources.text import TextRows

        return TextRows(files, spec.uri)
    from batchroute.tables.sources.rows import FileRows

    return FileRows(spec)


def files_of(spec: InputSpec) -> Files:
    """The files that `uri` names, before anything is fetched.

    Raises:
        InputError: the filesystem is unknown, or its package is not installed.
    """
    form = spec.text_format
    if form is None:
        return Files(spec.uri, spec.storage_options)
    return TextFiles(spec.uri, form, spec.storage_options)
