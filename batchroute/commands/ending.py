"""The ending of a run: what the console, the log, and whom the job notifies are told of it."""

from __future__ import annotations

from typing import Any

import typer

from batchroute.config.job import Job
from batchroute.errors import EXIT_OK
from batchroute.pipeline.run import Outcome
from batchroute.progress import Progress
from batchroute.reports import console
from batchroute.reports.export import notify
from batchroute.reports.export.summary import summary
from batchroute.reports.headline import headline


def tell_of_failure(error: BaseException, asked: Job | None, progress: Progress, json_logs: bool) -> None:
    """Tell the log and whom the job notifies.

    Args:
        asked: None when the job file could not be read.
    """
    event, exit_code, message = notify.ending(error)
    record: dict[str, Any] = {"event": event, "message": message, "exit_code": exit_code}
    if asked is not None:
        record |= {"job_name": asked.name, "output": asked.output.uri}
        _warn(notify.send(asked.notify, event, record), progress)
    if json_logs:
        progress.note(**record)


def tell(outcome: Outcome, asked: Job, progress: Progress, json_logs: bool) -> None:
    """Tell the outcome. The last line is one sentence, and with JSON logs the record that a webhook is sent."""
    committed, output, night = outcome.manifest, outcome.output, outcome.night
    nothing = f"nothing to do: run {committed.run_id} was committed at {committed.committed_at}"
    sentence = nothing if night is None else headline(night)
    if not json_logs:
        if outcome.was_done:
            progress.note("nothing", nothing)
        console.show(outcome.report)
        typer.echo(
            f"answers  {output}/data/*.parquet\nreport   {output}/report/report.html\nproof    {output}/manifest.json"
        )
    if committed.counts["failed"]:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in outcome.report.failures.items())
        verdict = "above" if outcome.exit_code != EXIT_OK else "within"
        progress.note("failed_rows", f"{committed.counts['failed']:,} rows failed ({kinds}), {verdict} max_failed")
    event: notify.Event = "nothing" if outcome.was_done else "done" if outcome.exit_code == EXIT_OK else "failed"
    record = {
        "event": event,
        "message": nothing if outcome.was_done else sentence,
        "exit_code": outcome.exit_code,
        "output": output,
        **summary(outcome.report, night),
    }
    if night is not None:
        _warn(notify.publish(asked.notify, night), progress)
    _warn(notify.send(asked.notify, event, record), progress)
    if json_logs:
        progress.note(**record)
    elif night is not None:
        typer.echo(sentence)


def _warn(warnings: list[str], progress: Progress) -> None:
    for warning in warnings:
        progress.note("notify", warning)
