"""The commands that look at a run and its output."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from batchroute.cli.options import Output, StorageOptions, storage_options
from batchroute.errors import EXIT_FAILED_ROWS, EXIT_OK
from batchroute.importing import uncollected, without_pandas

outputs_app = typer.Typer()


@outputs_app.command(name="what-if")
def what_if(
    output: Output,
    policy: Annotated[
        list[str], typer.Option("--policy", metavar="KEY=VALUE", help="small_share=70%; may be repeated.")
    ],
    storage: StorageOptions = None,
) -> None:
    """Show what a committed run would have cost and lost with other policies."""
    from batchroute.commands.what_if import show
    from batchroute.commands.what_if import what_if as decide

    show(decide(output, policy, storage_options(storage)))


@outputs_app.command()
def status(output: Output, storage: StorageOptions = None) -> None:
    """Show how far a run is: stages, units, failures, rate and time left."""
    from batchroute.commands.status import show

    show(output, storage_options(storage))


@outputs_app.command()
def verify(output: Output, storage: StorageOptions = None) -> None:
    """Check a committed output: every hash and row count, and ids, prompts and their order against the input."""
    with uncollected():
        without_pandas()
        from batchroute.commands.verify import verify as check

    findings = check(output, storage_options(storage))
    for line in findings.checked:
        typer.echo(f"ok: {line}")
    for line in findings.unchecked:
        typer.echo(f"not checked: {line}")
    for line in findings.wrong:
        typer.echo(f"wrong: {line}", err=True)
    raise typer.Exit(EXIT_FAILED_ROWS if findings.wrong else EXIT_OK)


@outputs_app.command()
def export(
    output: Output,
    form: Annotated[Literal["jsonl"], typer.Option("--format", help="Lines of OpenAI's batch output.")] = "jsonl",
    target: Annotated[
        str | None, typer.Option("--output", metavar="FILE", help="File to write; else the standard output.")
    ] = None,
    storage: StorageOptions = None,
) -> None:
    """Write the answers of a committed output as lines of OpenAI's batch output."""
    from batchroute.commands.export import export as write

    lines = write(output, target, storage_options(storage))
    if target is not None:
        typer.echo(f"export   {lines:,} lines in {target}")


@outputs_app.command()
def gc(
    output: Output,
    storage: StorageOptions = None,
    older_than: Annotated[float, typer.Option("--older-than", min=0, help="Hours; younger files are left.")] = 24,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
) -> None:
    """Remove what runs left behind: work folders of committed runs, files of no run, uploads that never ended.

    Given the uri of a cache, remove the answers that are older than the days that its jobs keep them.
    """
    from batchroute.commands.gc import collect

    lines = collect(output, older_than * 3600, dry_run, storage_options(storage))
    for line in lines:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {line}")
    if not lines:
        typer.echo("nothing to remove")


@outputs_app.command()
def report(
    outputs: Annotated[list[str], typer.Argument(metavar="OUTPUT", help="The output.uri of a job, night by night.")],
    target: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Folder to write to; else OUTPUT/report, for a trend this folder.",
        ),
    ] = None,
    storage: StorageOptions = None,
) -> None:
    """Rebuild the report of a committed output, or draw the trend over several."""
    from batchroute.commands.report import write

    for path in write(outputs, target, storage_options(storage)):
        typer.echo(f"report   {path}")
