"""Tables that answers are loaded into, after the commit of the files."""

from __future__ import annotations

from batchroute.tables.targets.base import TableSpec, Target


def target_of(spec: TableSpec | None, key: str | None) -> Target | None:
    """The table of `output.table`; None where the job has none.

    Args:
        key: the column that mode `upsert` identifies rows by.
    """
    if spec is None:
        return None
    if spec.warehouse:
        from batchroute.tables.targets.sql import SqlTarget

        return SqlTarget(spec, key)
    if spec.delta:
        from batchroute.tables.targets.delta import DeltaTarget

        return DeltaTarget(spec, key)
    from batchroute.tables.targets.iceberg import IcebergTarget

    return IcebergTarget(spec)
