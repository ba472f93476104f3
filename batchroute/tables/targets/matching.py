"""Which column of the answers goes into which column of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from batchroute.errors import InputError

_RESPONSE = "response"


@dataclass(frozen=True)
class Match:
    """The columns that a table shares with the answers."""

    ours: dict[str, str]
    """The name in the table to the name in the answers, in the table's order."""
    left_out: list[str]
    """Of the answers."""

    def theirs(self, ours: str) -> str | None:
        """The table's name for a column of the answers; None where it has none."""
        return next((name for name, own in self.ours.items() if own == ours), None)

    def notes(self, public: str) -> list[str]:
        """
        Args:
            public: the table, as messages name it.
        """
        return [f"{public} has no column {', '.join(self.left_out)}: left out"] if self.left_out else []

    def batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns that go into the table, under its names."""
        return pa.RecordBatch.from_arrays([batch.column(own) for own in self.ours.values()], list(self.ours))

    def schema(self, schema: pa.Schema) -> pa.Schema:
        return pa.schema([schema.field(own).with_name(name) for name, own in self.ours.items()])


def match(answers: Iterable[str], table: Iterable[str], columns: Mapping[str, str | None], public: str) -> Match:
    """By `output.table.columns`, else by name, else by a name that differs in case alone.

    Args:
        columns: the name in the table to the name in the answers; to None where the column gets nothing.

    Raises:
        InputError: `columns` names a column that is not there, or the table has none for the responses.
    """
    answers, table = list(answers), list(table)
    unknown = [name for name, own in columns.items() if own is not None and name not in table]
    if unknown:
        raise InputError(f"output.table.columns: {public} has no column {unknown[0]}; it has {', '.join(table)}")
    wrong = [own for own in columns.values() if own is not None and own not in answers]
    if wrong:
        raise InputError(f"output.table.columns: the answers have no column {wrong[0]}; they have {', '.join(answers)}")
    ours = {}
    for name in table:
        alike = [own for own in answers if own.lower() == name.lower() and own not in table]
        if name in columns:
            own = columns[name]
        elif name in answers:
            own = name
        else:
            own = alike[0] if len(alike) == 1 else None
        if own is not None:
            ours[name] = own
    found = Match(ours, [name for name in answers if name not in ours.values()])
    if not any(name.endswith(_RESPONSE) for name in ours.values()):
        raise InputError(
            f"output.table: {public} has no column for the responses; it has {', '.join(table)}. Name the one that is "
            "to have them: output.table.columns: {THEIRS: response}"
        )
    return found


def their_name(ours: str, table: Iterable[str], columns: Mapping[str, str | None]) -> str | None:
    """The table's name for a column of the answers, as `match` finds it; None where it has none."""
    table = list(table)
    mapped = [name for name, own in columns.items() if own == ours and name in table]
    alike = [name for name in table if name.lower() == ours.lower() and name not in columns]
    if mapped or (ours in table and ours not in columns):
        return (mapped or [ours])[0]
    return alike[0] if len(alike) == 1 else None


def renamed(answers: Iterable[str], columns: Mapping[str, str | None], public: str) -> Match:
    """The columns of a table that is to be made. Raises as `match`."""
    names = {own: name for name, own in columns.items() if own is not None}
    left_out = {name for name, own in columns.items() if own is None}
    table = [names.get(own, own) for own in answers if own not in left_out]
    return match(answers, table, {name: own for name, own in columns.items() if own is not None}, public)
