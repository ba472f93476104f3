"""batchroute: a nightly batch job that routes each prompt to a small or a large language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

__version__ = "0.1.0"


def read(output: str, storage_options: Mapping[str, Any] | None = None) -> pl.LazyFrame:
    """The rows of a committed output, in input order: exactly the files of its manifest.

    Args:
        output: the `output.uri` of a job.
        storage_options: for the fsspec filesystem, as in the job file.

    Raises:
        InputError: the output is not committed.
    """
    from batchroute.storage import reading

    return reading.read(output, storage_options)
