"""The ledger of a shard's provider batches: what was submitted, and the outcome of each row.

    <output>.work/<run id>/batches/<shard>/intents/00000.json     before the paid call: rows, uploaded file
    <output>.work/<run id>/batches/<shard>/submitted/00000.json   after it: the provider's batch
    <output>.work/<run id>/batches/<shard>/00000.parquet + .json  the outcome of each row, and the receipt

An intent without a file in submitted/ means a crash before or after the paid call: the provider is asked which.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from batchroute.generators.base import Response
from batchroute.generators.batch.outcomes import RowOutcome
from batchroute.pipeline import layout
from batchroute.pipeline.shards import answers
from batchroute.pipeline.shards.names import Shard
from batchroute.storage.folder import Folder
from batchroute.storage.receipts import Facts, Receipt
from batchroute.storage.units import is_unit
from batchroute.storage.workdir import Workdir

_TABLES_IN_MEMORY = 4
_AGAIN = pa.field("again", pa.bool_())


class Intent(BaseModel):
    """A batch that will be, or has been, submitted.

    Attributes:
        rows: the positions of its rows, by unit.
        file_id: what the provider knows the batch by, as `BatchApi.prepare` gave it.
        created: Unix time.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    rows: dict[str, list[int]]
    file_id: str
    host: str
    created: float

    @property
    def name(self) -> str:
        return f"{self.number:05d}"

    @property
    def requests(self) -> int:
        return sum(len(positions) for positions in self.rows.values())


@dataclass
class Tries:
    """The state of one row over all batches.

    Attributes:
        response: the last one.
        again: whether another batch may bring a better response.
        asked: how often the row was submitted and tried.
        waiting: whether a batch with the row is open.
    """

    response: Response | None = None
    again: bool = True
    asked: int = 0
    waiting: bool = False


@dataclass
class Ledger:
    """All batches of one shard, as of the last `load`."""

    work: Workdir
    shard: Shard
    intents: dict[str, Intent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stage = self.work.stage(f"{layout.BATCHES}/{self.shard}")
        self._intents = self._folder("intents")
        self._submitted = self._folder("submitted")
        self._batch_ids: dict[str, str] = {}
        self._done: dict[str, Receipt] = {}
        self._read = functools.lru_cache(maxsize=_TABLES_IN_MEMORY)(self._read_table)
        self.load()

    def load(self) -> None:
        """Read the entries that other processes have added."""
        self._done = self._stage.receipts()
        names = (name for name in self._intents.names(".json") if is_unit(name.removesuffix(".json")))
        new = [name for name in names if name.removesuffix(".json") not in self.intents]
        for data in self._intents.read_all(new):
            intent = Intent.model_validate_json(data)
            self.intents[intent.name] = intent

    def open(self) -> list[Intent]:
        """The intents whose batches have no outcome yet."""
        return [intent for name, intent in sorted(self.intents.items()) if name not in self._done]

    def is_done(self, intent: Intent) -> bool:
        """Whether the batch of the intent has an outcome."""
        return intent.name in self._done

    def intend(self, rows: Mapping[str, list[int]], file_id: str, host: str, now: float) -> Intent | None:
        """Put the intent to submit these rows; None when another process has put one since `load`, perhaps of them."""
        intent = Intent(number=len(self.intents), rows=dict(rows), file_id=file_id, host=host, created=now)
        if not self._intents.put_new(f"{intent.name}.json", intent.model_dump_json().encode()):
            return None
        self.intents[intent.name] = intent
        return intent

    def batch_id(self, intent: Intent) -> str | None:
        """The id of the provider's batch; None while it is unknown whether there is one."""
        if intent.name not in self._batch_ids:
            try:
                self._batch_ids[intent.name] = str(json.loads(self._submitted.read(f"{intent.name}.json"))["batch_id"])
            except FileNotFoundError:
                return None
        return self._batch_ids[intent.name]

    def batch_ids(self) -> list[str]:
        """The ids of all batches that are known."""
        return [name for intent in self.intents.values() if (name := self.batch_id(intent)) is not None]

    def submitted(self, intent: Intent, batch_id: str) -> str:
        """Put the id of the provider's batch; returns the id that stands there, which another process may have put."""
        self._submitted.put_new(f"{intent.name}.json", json.dumps({"batch_id": batch_id}).encode())
        recorded = self.batch_id(intent)
        assert recorded is not None
        return recorded

    def conclude(
        self, intent: Intent, outcomes: Mapping[int, RowOutcome], seconds: float, schema: pa.Schema = answers.SCHEMA
    ) -> None:
        """Put the outcome of each row.

        Args:
            schema: of the model's answers, as `answers.schema_of` gives it.
        """
        positions = sorted(outcomes)
        rows = answers.answers_table(
            positions,
            pa.nulls(len(positions), pa.int64()),
            [(outcomes[position].response, None) for position in positions],
            schema,
        )
        table = rows.append_column(_AGAIN, pa.array([outcomes[position].again for position in positions], pa.bool_()))
        failed = sum(outcome.response.error_type is not None for outcome in outcomes.values())
        facts = Facts.of(self.work.run_id, intent.name, positions, seconds=seconds, counts={"failed": failed})
        self._done[intent.name] = self._stage.commit(facts, table.schema, table.to_batches())

    def tries(self, unit: str, committed: Mapping[int, int]) -> dict[int, Tries]:
        """The state of rows of a unit.

        Args:
            committed: by position, how often each row had been tried when the unit was last committed. The rows failed
                then and are asked again; those tries no longer count.
        """
        tries = {position: Tries(asked=-before) for position, before in committed.items()}
        for name, intent in sorted(self.intents.items()):
            positions = [position for position in intent.rows.get(unit, ()) if position in tries]
            rows = self._read(name) if positions and name in self._done else {}
            for position in positions:
                row = tries[position]
                if name not in self._done:
                    row.waiting = True
                    continue
                response, again = rows[position]
                row.asked += response.attempts
                if row.asked > 0:
                    row.response, row.again = response, again
        return tries

    def answered(self, units: Collection[str]) -> Iterator[tuple[str, list[Response]]]:
        """The answers of ended batches to rows of these units, which a provider has billed."""
        for name, intent in sorted(self.intents.items()):
            wanted = [unit for unit in intent.rows if unit in units] if name in self._done else []
            rows = self._read(name) if wanted else {}
            for unit in wanted:
                yield unit, [one for position in intent.rows[unit] if (one := rows[position][0]).answered]

    def seconds_of(self, unit: str) -> float:
        """The unit's share of the seconds that its batches took."""
        return sum(
            self._done[name].seconds / len(intent.rows)
            for name, intent in self.intents.items()
            if unit in intent.rows and name in self._done
        )

    def _folder(self, name: str) -> Folder:
        return self.work.folder.folder(f"{layout.BATCHES}/{self.shard}/{name}")

    def _read_table(self, name: str) -> dict[int, tuple[Response, bool]]:
        rows: list[dict[str, Any]] = self._stage.read(name).to_pylist()
        return {row["position"]: (answers.answer_of(row)[0], row["again"]) for row in rows}
