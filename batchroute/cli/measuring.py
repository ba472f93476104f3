"""The commands that measure a router and a confidence. Imports are inside the commands, to keep `--help` fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchroute.cli.options import Overrides
from batchroute.errors import InputError

if TYPE_CHECKING:
    import torch

    from batchroute.confidence.ways import Prices

measuring_app = typer.Typer()


@measuring_app.command()
def calibrate(
    quality_table: Annotated[str, typer.Option("--quality-table", metavar="TABLE.parquet", help="What to measure on.")],
    router: Annotated[
        str | None, typer.Option("--router", metavar="DIR", help="The router; the calibration goes into it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Without a router: where the calibration goes.")
    ] = None,
    signal: Annotated[
        list[str] | None,
        typer.Option("--signal", metavar="COLUMN", help="A recorded signal of the small answers; may be repeated."),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option("--reader", metavar="DIR", help="From train --reads answer: one more signal."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the folds and the bootstrap.")] = 0,
) -> None:
    """Measure what each threshold of score and confidence costs in quality, on rows that the router never saw."""
    from batchroute.confidence.calibrate import calibrate_confidence, write
    from batchroute.confidence.reader import check_reader, with_readings
    from batchroute.router.notes import CONFIDENCE_FILE
    from batchroute.tables import quality_table as tables

    if (router is None) == (output is None):
        raise InputError("give either --router, or --output for a confidence without a router")
    table, scores = tables.read(quality_table, signal or (), responses=reader is not None), None
    check_reader(table, reader)
    if router is not None:
        from batchroute.router.calibration.calibrate import calibrate_router

        calibrated = calibrate_router(table, router, _device(), seed)
        table, scores = calibrated.table, calibrated.scores
        for line in calibrated.calibration.summary():
            typer.echo(line)
        typer.echo(f"calibration in {Path(router) / 'calibration.json'}")
        if not table.tells and reader is None:
            return
    known = None
    if reader is not None:
        from batchroute.router.reading import identity_of

        table, scores = with_readings(table, scores, reader, _device())
        known = identity_of(reader)
    folder = Path(router or str(output))
    confidence = calibrate_confidence(table, scores, seed, known)
    write(confidence, folder)
    for line in confidence.summary():
        typer.echo(line)
    typer.echo(f"confidence in {folder / CONFIDENCE_FILE}")


@measuring_app.command()
def evaluate(
    quality_table: Annotated[str, typer.Option("--quality-table", metavar="TABLE.parquet", help="What to measure on.")],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where figures and plots go.")],
    router: Annotated[
        str | None, typer.Option("--router", metavar="DIR", help="The router; may be missing if the table has signals.")
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option("--compare", metavar="DIR", help="Another router to compare; may be repeated.")
    ] = None,
    second_table: Annotated[
        str | None, typer.Option("--second-table", metavar="TABLE", help="The same prompts by another metric.")
    ] = None,
    confidence: Annotated[
        str | None,
        typer.Option("--confidence", metavar="DIR", help="Where calibrate put the confidence; default: the router."),
    ] = None,
    signal: Annotated[
        list[str] | None,
        typer.Option("--signal", metavar="COLUMN", help="A recorded signal of the small answers; may be repeated."),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option("--reader", metavar="DIR", help="From train --reads answer: one more signal."),
    ] = None,
    job_file: Annotated[
        str | None, typer.Option("--job", metavar="JOB.yaml", help="The job with the prices to compare ways by.")
    ] = None,
    overrides: Overrides = None,
    small_cost: Annotated[
        float,
        typer.Option("--small-cost", min=0, max=100, help="Without --job: a small answer's cost, % of a large."),
    ] = 10.0,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=100, max=20000, help="Resamples.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 0,
    all_rows: Annotated[bool, typer.Option("--all-rows", help="Include rows that were trained on: flatters.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what the output holds.")] = False,
) -> None:
    """Measure what a router and the small model's signals are worth on other rows: figures, intervals and plots."""
    from batchroute.confidence.calibration import ConfidenceCalibration
    from batchroute.confidence.reader import check_reader, with_readings
    from batchroute.confidence.ways import evaluate_ways, sentences
    from batchroute.confidence.ways import write as write_ways
    from batchroute.router.evaluation.output import check_output, make_output
    from batchroute.tables import quality_table as tables

    if router is None and (compare or second_table is not None):
        raise InputError("--compare and --second-table are about routers: name one with --router")
    check_output(output, overwrite)
    prices = _prices(job_file, overrides, small_cost)
    table, scores = tables.read(quality_table, signal or (), responses=reader is not None), None
    calibration = None if (folder := confidence or router) is None else ConfidenceCalibration.known(folder)
    check_reader(table, reader, calibration)
    if router is not None:
        from batchroute.router.evaluation.console import print_evaluation
        from batchroute.router.evaluation.evaluate import evaluate_routers, write

        routers = [router, *(compare or ())]
        evaluated = evaluate_routers(table, routers, _device(), bootstrap, seed, all_rows, second_table)
        table, scores = evaluated.table, evaluated.scores
        write(evaluated.evaluation, output, overwrite)
        print_evaluation(evaluated.evaluation)
        typer.echo(f"figures  {output}/evaluation.json\nplot     {output}/curve.png, {output}/curve.svg")
        if not table.tells and reader is None:
            return
    if reader is not None:
        table, scores = with_readings(table, scores, reader, _device(), all_rows)
    ways = evaluate_ways(table, scores, calibration, prices, bootstrap, seed)
    make_output(output)
    write_ways(ways, output)
    for line in sentences(ways):
        typer.echo(line)
    typer.echo(f"figures  {output}/ways.json\nplot     {output}/ways.png, {output}/ways.svg")


def _device() -> torch.device:
    from batchroute.engines.local import LocalEngine
    from batchroute.progress import for_this_terminal

    return LocalEngine(for_this_terminal(False)).device


def _prices(job_file: str | None, overrides: list[str] | None, small_cost: float) -> Prices:
    """The prices of the job, or the ratio that stands for them."""
    from batchroute.confidence.ways import Prices
    from batchroute.config.loading import load
    from batchroute.fields import SIDES

    if job_file is None:
        if overrides:
            raise InputError("--set overrides a setting of the job: give --job too")
        return Prices(None, small_cost / 100.0, f"ratio: an answer of the small model costs {small_cost:g} %")
    job = load(job_file, overrides or ())
    by_side = {}
    for side in SIDES:
        price = job.models.of(side).price
        if price is None:
            raise InputError(f"{job_file} has no models.{side}.price: give it, or compare ways by --small-cost")
        by_side[side] = price
    return Prices(by_side, 0.0, f"the prices of {job_file}")


@measuring_app.command(name="check-transfer")
def check_transfer(
    router: Annotated[str, typer.Option("--router", metavar="DIR", help="The router.")],
    quality_table: Annotated[str, typer.Option("--quality-table", metavar="TABLE.parquet", help="Of the new pair.")],
    trained_on: Annotated[
        str | None, typer.Option("--trained-on", metavar="TABLE", help="Of the router's own pair, on the same prompts.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 0,
) -> None:
    """Tell whether a router can serve another pair of models, from a small labelled sample."""
    from batchroute.router.evaluation.transfer import check

    for line in check(router, quality_table, _device(), trained_on, seed).sentences():
        typer.echo(line)
