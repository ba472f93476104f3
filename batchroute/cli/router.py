"""The commands that make a router. Imports are inside the commands, to keep `--help` fast."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from batchroute import crash
from batchroute.cli.options import JsonLogs, Overrides
from batchroute.errors import EXIT_CRASHED, BatchrouteError, InputError

router_app = typer.Typer()

_OF_FINE_TUNING = ("epochs", "patience", "lr", "batch_size")


def _by_side(given: Sequence[str]) -> dict[str, str]:
    """`small=PREFIX` and `large=PREFIX` as a mapping."""
    pairs = [one.partition("=") for one in given]
    for side, equals, prefix in pairs:
        if side not in ("small", "large") or not equals or not prefix:
            raise InputError(f"--recorded {side}{equals}{prefix}: give small=PREFIX or large=PREFIX")
    return {side: prefix for side, _, prefix in pairs}


@router_app.command()
def label(
    prompts: Annotated[
        str, typer.Argument(metavar="PROMPTS", help="Parquet, JSON lines or CSV: prompts, or recorded responses.")
    ],
    output: Annotated[str, typer.Option("--output", metavar="TABLE.parquet", help="Where the quality table goes.")],
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            help="bartscore, likelihood, rouge, bleu, chrf, exact_match, contains, embedding or judge: see the README.",
        ),
    ],
    job_file: Annotated[str | None, typer.Option("--job", metavar="JOB.yaml", help="The job with both models.")] = None,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Responses of each model to each prompt.")] = 10,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0, help="Sampling temperature.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Sampling seed.")] = 0,
    metric_model: Annotated[str | None, typer.Option("--metric-model", help="The model that measures.")] = None,
    metric_direction: Annotated[
        Literal["reference", "response", "both"] | None,
        typer.Option("--metric-direction", help="Which text is predicted: bartscore and likelihood."),
    ] = None,
    extract: Annotated[
        str | None,
        typer.Option("--extract", metavar="RULE", help="exact_match: what of an answer counts: REGEX or json:KEY."),
    ] = None,
    judge_endpoint: Annotated[str | None, typer.Option("--judge-endpoint", help="Base URL of the judge.")] = None,
    prompt: Annotated[str, typer.Option("--prompt", help="The column of prompts.")] = "prompt",
    id_column: Annotated[str | None, typer.Option("--id", help="A column of unique ids.")] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="The column of references; large: the large model's answers.")
    ] = None,
    helper: Annotated[
        str | None,
        typer.Option("--helper", metavar="COLUMN", help="Recorded answers of a helper: agreement with it is a signal."),
    ] = None,
    signal: Annotated[
        list[str] | None,
        typer.Option("--signal", metavar="COLUMN", help="A recorded signal of the small answers; may be repeated."),
    ] = None,
    agree: Annotated[
        int, typer.Option("--agree", min=0, help="Next samples that each small answer is compared with: a signal.")
    ] = 0,
    small_model: Annotated[str | None, typer.Option("--small-model", help="Its name, for recorded responses.")] = None,
    large_model: Annotated[str | None, typer.Option("--large-model", help="Its name, for recorded responses.")] = None,
    recorded: Annotated[
        list[str] | None,
        typer.Option(
            "--recorded", metavar="SIDE=PREFIX", help="That side's responses are the input's column PREFIX_responses."
        ),
    ] = None,
    keep_responses: Annotated[
        bool, typer.Option("--keep-responses", help="Also write the responses, next to the table.")
    ] = False,
    published: Annotated[
        Literal["mixinstruct"] | None,
        typer.Option("--import", help="PROMPTS is a published file with answers and scores; --metric names a score."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove what the output holds, and start again.")] = False,
    json_logs: JsonLogs = False,
) -> None:
    """Make a quality table: both models answer each prompt, and a metric measures how well."""
    from batchroute.commands.label.options import LabelOptions
    from batchroute.commands.label.pipeline import label as make_table
    from batchroute.config.loading import checked, load
    from batchroute.fields import SIDES
    from batchroute.progress import for_this_terminal

    names = {side: name for side, name in zip(SIDES, (small_model, large_model), strict=True) if name is not None}
    if published is not None:
        from batchroute.commands.label.mixinstruct import import_mixinstruct

        rows = import_mixinstruct(prompts, output, metric, names, keep_responses)
        typer.echo(f"{rows:,} rows labelled by {metric} in {prompts}\nquality table in {output}")
        return
    if overrides and job_file is None:
        raise InputError("--set overrides a setting of the job: give --job too")
    job = None if job_file is None else load(job_file, overrides or ())
    options = checked(
        LabelOptions,
        prompts=prompts,
        output=output,
        metric={
            "name": metric,
            "model": metric_model,
            "direction": metric_direction,
            "extract": extract,
            "endpoint": judge_endpoint,
        },
        models=None if job is None else job.models,
        max_failed="1%" if job is None else job.max_failed,
        samples=samples,
        temperature=temperature,
        seed=seed,
        prompt=prompt,
        id=id_column,
        reference=reference,
        helper=helper,
        agree=agree,
        signals=signal or [],
        names=names,
        recorded=_by_side(recorded or ()),
        keep_responses=keep_responses,
    )
    progress = for_this_terminal(json_logs)
    try:
        outcome = make_table(options, progress, fresh)
    except Exception as error:
        if not json_logs:
            raise
        if isinstance(error, BatchrouteError):
            progress.note("error", str(error), exit_code=error.exit_code)
            raise typer.Exit(error.exit_code) from error
        what = crash.sentence(error, "in this line")
        progress.note("crashed", what, exit_code=EXIT_CRASHED, traceback=crash.trace(error))
        raise typer.Exit(EXIT_CRASHED) from error
    if outcome.was_done:
        typer.echo(f"nothing to do: {outcome.output} is there already")
    for line in outcome.report.sentences():
        typer.echo(line)
    typer.echo(f"quality table in {outcome.output}")
    raise typer.Exit(outcome.exit_code)


@router_app.command()
def train(
    context: typer.Context,
    quality_table: Annotated[str, typer.Option("--quality-table", metavar="TABLE.parquet", help="What to learn from.")],
    base: Annotated[str, typer.Option("--base", metavar="MODEL", help="The encoder to start from.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where the router goes.")],
    label: Annotated[Literal["det", "prob", "trans", "gap"], typer.Option("--label", help="What it predicts.")] = "gap",
    method: Annotated[
        Literal["auto", "heads", "finetune"],
        typer.Option("--method", help="Heads on the encoder, or the whole encoder; auto chooses."),
    ] = "auto",
    reads: Annotated[
        Literal["prompt", "answer"],
        typer.Option("--reads", help="What it reads: prompts, or with each prompt the small model's answer too."),
    ] = "prompt",
    add: Annotated[
        list[str] | None,
        typer.Option("--add", metavar="TABLE", help="More rows to learn from, such as an audit; may be repeated."),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training rows, at most.")] = 5,
    patience: Annotated[
        int, typer.Option("--patience", min=1, help="Stop after this many epochs without a better one.")
    ] = 2,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate; 1e-4 for small encoders, else 1e-5.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows per step.")] = 32,
    max_length: Annotated[int, typer.Option("--max-length", min=8, help="Tokens read of a prompt.")] = 128,
    validation: Annotated[
        float, typer.Option("--validation", min=0, max=1, help="Share of prompts that choose the epoch.")
    ] = 0.1,
    test: Annotated[
        float, typer.Option("--test", min=0, max=1, help="Share held out for calibrate and evaluate.")
    ] = 0.2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the split, the order and the new weights.")] = 0,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load a base whose weights are not safetensors.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing router.")] = False,
) -> None:
    """Train a router on a quality table."""
    from batchroute.config.loading import checked
    from batchroute.engines.local import LocalEngine
    from batchroute.progress import for_this_terminal
    from batchroute.router.training.console import Narrator
    from batchroute.router.training.options import TrainOptions
    from batchroute.router.training.train import train as train_router

    sources = {option: context.get_parameter_source(option) for option in _OF_FINE_TUNING}
    asked = [option for option, source in sources.items() if source is not None and source.name != "DEFAULT"]
    flags = " and ".join(f"--{option.replace('_', '-')}" for option in asked)
    if asked and method == "heads":
        raise InputError(f"{flags} is about fine-tuning: leave it out, or pass --method finetune")
    options = checked(
        TrainOptions,
        quality_table=quality_table,
        base=base,
        output=output,
        label=label,
        method="finetune" if asked else method,
        reads=reads,
        add=add or [],
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
        # Under a launcher, rank 0 prints for all processes.
        if os.environ.get("RANK", "0") == "0":
            typer.echo(line, err=err)

    kind = "router" if reads == "prompt" else "reader of answers"
    say(f"training a {kind} for '{label}' from {base} on {quality_table}")
    if asked and method == "auto":
        say(f"fine-tuning, since {flags} is about it")
    with LocalEngine(for_this_terminal(False)).terminable():
        result = train_router(options, Narrator(say), say)
    if result.method == "heads":
        rows = "rows" if reads == "prompt" else "answers"
        say(f"{kind} in {result.output}: heads, {result.train_rows:,} {rows} to train on", err=False)
        return
    say(
        f"router in {result.output}: epoch {result.best_epoch} of {len(result.history)}, "
        f"{result.train_rows:,} rows to train on, {result.validation_rows:,} to choose by",
        err=False,
    )
