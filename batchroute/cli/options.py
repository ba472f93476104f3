"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated, Any

import typer

JobFile = Annotated[str, typer.Argument(metavar="JOB.yaml", help="The job file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: policy.threshold=0.4")
]
Output = Annotated[str, typer.Argument(metavar="OUTPUT", help="The output.uri of a job.")]
StorageOptions = Annotated[
    list[str] | None, typer.Option("--storage", metavar="KEY=VALUE", help="A storage option: anon=true")
]
JsonLogs = Annotated[bool, typer.Option("--json-logs", help="Progress as JSON lines, for a log collector.")]


def storage_options(pairs: list[str] | None) -> dict[str, Any]:
    """What `--storage` gives. Without any, the modules of the job file are not imported."""
    if not pairs:
        return {}
    from batchroute.config import loading

    return loading.options_of(pairs)
