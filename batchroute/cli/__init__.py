"""The command line. Each command imports what it needs when it is called, so that `--help` answers at once."""

from __future__ import annotations

import copy
import gc
import os
import signal
import sys
import threading
from types import FrameType
from typing import Annotated, Literal

import typer

from batchroute import __version__
from batchroute.cli.ending import Commands, Ended, report_end, report_thread
from batchroute.cli.measuring import measuring_app
from batchroute.cli.options import JobFile, JsonLogs, Overrides, StorageOptions, storage_options
from batchroute.cli.outputs import outputs_app
from batchroute.cli.router import router_app
from batchroute.errors import EXIT_OK, Terminated
from batchroute.importing import uncollected, without_pandas

# With Python's default, garbage collection takes a tenth of the start-up time, and more for the rows of each piece.
# Price: cyclic garbage takes some megabytes longer.
_GARBAGE_THRESHOLDS = 50_000, 10, 10

# How long threads may take to end once a command has failed and reported why.
_SECONDS_TO_LEAVE = 5.0


app = typer.Typer(
    cls=Commands,
    help="Route each prompt of a backlog to a small or a large language model, overnight and unattended.",
    epilog="Exit codes: 0 done or nothing to do · 1 failed rows above max_failed · 2 bad input or configuration · "
    "3 stopped, run again to resume · 4 waiting for provider batches · 70 unexpected error, with a traceback · "
    "130 interrupted · 143 terminated",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# On the same level as this file's commands.
_PARTS = outputs_app, router_app, measuring_app
for part in _PARTS:
    app.add_typer(part)

models_app = typer.Typer(help="The embedded models.", no_args_is_help=True)
app.add_typer(models_app, name="models")
tables_app = typer.Typer(help="Tables of prompts.", no_args_is_help=True)
app.add_typer(tables_app, name="tables")


def main() -> None:
    """The entry point: runs the command, and ends the process."""
    code = command()
    if code:
        # A signal may interrupt a thread pool just as it starts a thread. The pool then forgets the thread, which waits
        # for work for ever, and Python waits for the thread.
        guard = threading.Timer(_SECONDS_TO_LEAVE, os._exit, [code])
        guard.daemon = True
        guard.start()
    sys.exit(code)


def command() -> int:
    """Run the command and return its exit code; an error that ends it is printed as one sentence."""
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    # Messages of libraries would bury the progress lines.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Otherwise torch prints pages about the connection to a dead rank, next to the line that names the rank.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # pydantic would read what each installed package says of itself, to find plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # A container's first process ignores signals without a handler.
    signal.signal(signal.SIGTERM, _terminate)
    threading.excepthook = report_thread
    try:
        _with_one_command(sys.argv[1:2])()
    except SystemExit as end:
        return int(end.code or EXIT_OK)
    except Ended as ended:
        return report_end(ended.__cause__ or ended)
    except BaseException as error:  # a panic of a library in Rust too, which is no Exception
        return report_end(error)
    return EXIT_OK


def _with_one_command(words: list[str]) -> typer.Typer:
    """The app with no other command than the one that the word names: typer makes a parser of each, 0.03 s for all."""
    commands = [one for each in (app, *_PARTS) for one in each.registered_commands]
    named = [one for one in commands if one.callback and [one.name or one.callback.__name__] == words]
    if not named:
        return app
    alone = copy.copy(app)
    alone.registered_commands, alone.registered_groups = named, []
    return alone


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"batchroute {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command()
def run(
    job_file: JobFile,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove what the output holds, and start again.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again for the rows that failed.")] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="End when provider batches are submitted; run again to pick them up.")
    ] = False,
    json_logs: JsonLogs = False,
    processes: Annotated[
        str | None, typer.Option("--processes", metavar="N|auto", help="Ranks on this machine; auto: one a GPU.")
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines; start the command on each of them.")] = 1,
    node_rank: Annotated[
        int | None, typer.Option("--node-rank", min=0, help="Which machine this is; else by JOB_COMPLETION_INDEX.")
    ] = None,
    master: Annotated[str | None, typer.Option("--master", metavar="HOST:PORT", help="Where machine 0 is.")] = None,
    max_restarts: Annotated[
        int, typer.Option("--max-restarts", min=0, help="How often to start all ranks again when one died.")
    ] = 0,
    engine: Annotated[
        Literal["local", "ray"], typer.Option("--engine", help="Where units run: on ranks, or on a Ray cluster.")
    ] = "local",
) -> None:
    """Run a job, or go on with one that was stopped. Run it again after success: nothing is done twice."""
    with uncollected():
        without_pandas()
        from batchroute.commands.run import Options
        from batchroute.commands.run import run as run_command

    options = Options(
        fresh, retry_failed, not no_wait, json_logs, processes, nodes, node_rank, master, max_restarts, engine
    )
    raise typer.Exit(run_command(job_file, overrides or (), options))


@app.command()
def validate(
    job_file: JobFile,
    overrides: Overrides = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also try a load of no rows into output.table.")] = False,
) -> None:
    """Check a job's file, input, columns, models and output without running it."""
    with uncollected():
        without_pandas()
        from batchroute.commands.validate import validate as check
        from batchroute.config import loading

    for line in check(loading.load(job_file, overrides or ()), deep):
        typer.echo(line)


@app.command()
def plan(
    job_file: JobFile,
    overrides: Overrides = None,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Rows to score, unless all are scored.")] = 1000,
    simulated: Annotated[
        bool, typer.Option("--simulate", help="Time and cost on more rows and workers, by a run's units.")
    ] = False,
) -> None:
    """Show what a run would do, cost and lose, without generating anything."""
    with uncollected():
        without_pandas()
        from batchroute.commands import simulate
        from batchroute.commands.plan import make_plan, show
        from batchroute.config import loading
        from batchroute.progress import for_this_terminal

    job = loading.load(job_file, overrides or ())
    if simulated:
        simulate.show(*simulate.simulate(job))
        return
    show(make_plan(job, for_this_terminal(False), sample), job)


@app.command()
def doctor(
    job_file: Annotated[str | None, typer.Argument(metavar="JOB.yaml", help="A job to check this machine for.")] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Check this machine, and whether it has what a job needs; show a remedy for each problem."""
    from batchroute.commands.doctor import examine, show

    diagnosis = examine(job_file, overrides or ())
    show(diagnosis, as_json)
    raise typer.Exit(diagnosis.exit_code)


@tables_app.command()
def inspect(
    uri: Annotated[
        str,
        typer.Argument(metavar="URI", help="Parquet files, a Delta table, a warehouse, an Iceberg table's name."),
    ],
    table: Annotated[str, typer.Option("--table", help="Of a warehouse.")] = "",
    query: Annotated[str, typer.Option("--query", help="Of a warehouse.")] = "",
    catalog: Annotated[
        list[str] | None, typer.Option("--catalog", metavar="KEY=VALUE", help="Of an Iceberg table: uri=sqlite:///c.db")
    ] = None,
    storage: StorageOptions = None,
) -> None:
    """Show a table's columns, its first rows, and which columns look like the id and the prompt."""
    from rich.console import Console

    from batchroute.config import loading
    from batchroute.tables.preview import preview

    properties = {name: str(value) for name, value in loading.options_of(catalog or (), "--catalog").items()}
    preview(uri, query, table, properties, storage_options(storage)).show(Console())


@models_app.command()
def fetch(
    bundle: Annotated[list[str], typer.Argument(metavar="NAME", help="demo, pair, or models of `models list`.")],
) -> None:
    """Fetch embedded models and convert them, once, into the cache. Run it again after a cut: it goes on."""
    from batchroute.models import embedded
    from batchroute.models.embedded.progress import for_this_terminal

    with for_this_terminal() as progress:
        embedded.fetch(bundle, progress)


@models_app.command(name="list")
def list_models() -> None:
    """Show the embedded models: which are here, their sizes, licences and sources."""
    from batchroute.models import embedded
    from batchroute.models.embedded.listing import show

    show(embedded.entries())


if __name__ == "__main__":
    main()
