"""What the job's table demands of values, asked before the night: that it holds them, and that keys are unique."""

from __future__ import annotations

import pyarrow as pa

from batchroute.config.job import Job
from batchroute.errors import InputError
from batchroute.pipeline.stages.results import result_names
from batchroute.tables.parquet import PromptTable
from batchroute.tables.prompts import prompt_columns
from batchroute.tables.repeated import find_repeated, first_held
from batchroute.tables.targets.base import Target
from batchroute.tables.targets.columns import Holds
from batchroute.tables.targets.constraints import Key


def check_constraints(job: Job, target: Target, schema: pa.Schema, table: PromptTable) -> list[str]:
    """Sentences about what only the load will show.

    Args:
        schema: of the answers.
        table: the input; without files where its rows are not fetched yet.

    Raises:
        InputError: a value would change in the table, or the values of a unique key repeat or are there already.
    """
    holds, names = target.goes_in(schema)
    columns = [name for name in table.schema.names if name in names]
    notes = [f"{', '.join(texts)} become text, which keeps all digits"] if (texts := holds.as_text(schema)) else []
    _check_values(target, holds, table, columns)
    found = target.constraints(schema, result_names(job))
    hidden, later = prompt_columns(job.input.prompt, table.schema), list(found.others)
    for key in found.keys:
        if not table.files:
            later.append(f"{_named(key)}, which the run asks once the rows are fetched")
            continue
        if job.input.id not in key.columns and (repeated := find_repeated(table, key.columns, hidden)):
            raise InputError(
                f"output.table: {target.public} takes no two rows with one value of its {_named(key)}, and the input "
                f"repeats {repeated}"
            )
        later += _against_the_table(job, target, table, key, hidden)
    return [*notes, *found._replace(others=tuple(later)).note(target.public)]


def _check_values(target: Target, holds: Holds, table: PromptTable, columns: list[str]) -> None:
    doubtful = holds.doubtful(pa.schema([table.schema.field(name) for name in columns]))
    if not doubtful or not table.files:
        return
    at = 0
    for batch in table.reader(doubtful).read(0, table.rows):
        try:
            holds.check(batch)
        except InputError as error:
            raise InputError(f"output.table: {target.public}: near {table.where(at)}, {error}") from error
        at += batch.num_rows


def _against_the_table(job: Job, target: Target, table: PromptTable, key: Key, hidden: list[str]) -> list[str]:
    if len(key.columns) > 1 or target.mode == "upsert":
        return [f"{_named(key)}, against the rows that are there"]
    (column,) = key.columns
    try:
        held = first_held(table, column, target.held(column), hidden)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return [f"{_named(key)}, against the rows that are there"]
    if held is None:
        return []
    remedy = "set output.table.mode to upsert or replace" if column == job.input.id else "leave the row out"
    if column == job.input.id and job.input.only_new is None:
        remedy += ", or leave out what is answered by input.only_new"
    raise InputError(
        f"output.table: {target.public} takes no two rows with one value of its {_named(key)}, and has that of the row "
        f"{held}: {remedy}"
    )


def _named(key: Key) -> str:
    return f"unique key {key.name} ({', '.join(key.columns)})"
