"""`batchroute validate`: all checks that need no model and write nothing.

It answers at once: what only some jobs have is imported for those jobs alone.
"""

from __future__ import annotations

from batchroute import generators, models
from batchroute.config.job import Job
from batchroute.fields import SIDES
from batchroute.pipeline.context import output_folder
from batchroute.pipeline.identity import Identity, calibrated_limits, identify
from batchroute.pipeline.metrics import check_models
from batchroute.pipeline.readers import other_small_model
from batchroute.pipeline.stages import results, snapshot
from batchroute.storage.workdir import run_ids
from batchroute.tables.files import Files
from batchroute.tables.parquet import PromptTable
from batchroute.tables.prompts import prompt_columns
from batchroute.tables.repeated import check_ids
from batchroute.tables.sources import source_of
from batchroute.tables.targets import target_of
from batchroute.tables.types import portable_schema


def validate(job: Job, deep: bool = False) -> list[str]:
    """Check everything that can be checked without running: one line for each thing that is well.

    Args:
        deep: also try what a load into `output.table` does, with no rows.

    Raises:
        InputError: the first thing that is not.
    """
    output = output_folder(job)
    identity = identify(job)
    target = target_of(job.output.table, job.input.id)
    lines, units, table = _validate_files(job, identity) if job.input.in_place else _validate_source(job)
    if job.policy.looks_after:
        from batchroute.pipeline.stored_confidence import check_limits

        check_limits(job)
    check_models(job)
    if job.router is not None:
        models.check(job.router.model, router=True, allow_pickle=job.router.allow_pickle)
        lines.append(f"router   {job.router.model}")
    if job.models.small.reader is not None:
        models.check(job.models.small.reader, router=True)
        lines.append(f"reader   {other_small_model(job) or job.models.small.reader}")
    elif job.reader is not None and job.policy.calibrate is not None:
        lines.append(f"reader   fitted to {job.policy.calibrate.rows:,} of tonight's rows, on {job.reader}")
    lines += [f"policy   {line}" for line in calibrated_limits(job)]
    for side in SIDES:
        lines.append(f"{side:<8} {generators.check(job.models.of(side))}")
    if job.lineage is not None:
        from batchroute.reports.export import lineage

        lineage.check(job.lineage)
        lines.append(f"lineage  {job.lineage.place}")
    found = snapshot.committed(output, identity)
    snapshot.refuse_others(output, identity)
    output.check_writable()
    if target is not None:
        from batchroute.pipeline.stages.constraints import check_constraints

        target.loads(identity.run_id)
        lines.append(f"table    {target.public}: can be asked")
        schema = results.output_schema(job, table)
        lines += [
            f"table    {line}" for line in (*target.check(schema), *check_constraints(job, target, schema, table))
        ]
        if deep:
            tried = target.rehearse(schema)
            lines.append(f"table    a load of no rows {'went through' if tried else 'cannot be tried there'}")
    if job.cache is not None:
        from batchroute.pipeline.cache.place import cache_folder

        cache = cache_folder(job)
        assert cache is not None
        cache.check_writable()
        lines.append(f"cache    {cache}: writable")
    state = "committed already" if found else "to resume" if identity.run_id in run_ids(output) else "new"
    return [*lines, f"output   {output}: {state}", f"units    {units}"]


def _validate_files(job: Job, identity: Identity) -> tuple[list[str], str, PromptTable]:
    frozen, table = snapshot.inspect(job, identity)
    if any(rule.budget is not None for _, rule in job.policy.rules()):
        from batchroute.pipeline.stages.decide import check_budget

        check_budget(job, frozen)
    lines = [f"input    {frozen.rows:,} rows in {len(frozen.files):,} files, prompts are {frozen.prompt_kind}"]
    if table.drift:
        lines.append(f"columns  {table.drift}")
    table.check_times()
    if job.input.id is not None:
        check_ids(table, job.input.id, prompt_columns(job.input.prompt, table.schema))
        lines.append(f"ids      {job.input.id}: unique, none null")
    return lines, f"{len(frozen.chunks()):,} to score, {len(frozen.parts()):,} files to write", table


def _validate_source(job: Job) -> tuple[list[str], str, PromptTable]:
    """Asks for the columns alone."""
    source = source_of(job.input)
    pinned = source.pin()
    table = PromptTable([], portable_schema(source.schema(pinned)), [0], Files())
    kind = snapshot.check_columns(job, table)
    lines = [f"input    {source.public}, prompts are {'text, or chats in JSON' if kind == 'text' else kind}"]
    if "columns" in pinned:
        from batchroute.tables.sources.text import columns_in_words

        lines.append(f"columns  {columns_in_words(pinned)}")
    return lines, "known when the rows are fetched", table
