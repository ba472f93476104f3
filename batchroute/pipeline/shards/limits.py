"""Limits: how much a run may cost and how many tokens it may use, from the first row on.

A unit begins only if all that it and the units in flight may take at most still fits. If not, it begins when no other
unit is in flight, and its worker asks for no more rows at a time than what is left allows (`Allowance`). So a run goes
beyond a limit by no more than one row, if that takes more than its bound. Once a shard has shown what its rows cost,
the whole run is projected too: a run that would end above its limit stops at once, and not when the money is spent.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from batchroute import words
from batchroute.config.job import Job
from batchroute.costs import prices
from batchroute.costs.prices import Price
from batchroute.errors import StoppedError
from batchroute.generators.base import Response
from batchroute.pipeline import layout
from batchroute.pipeline.context import Snapshot
from batchroute.pipeline.shards.answers import Answer, answer_of, model_of, priced
from batchroute.pipeline.shards.bounds import Amount, Bounds, fitting
from batchroute.pipeline.shards.names import SHARDS, Shard, shard_stage, side_of
from batchroute.pipeline.shards.tally import Tally
from batchroute.prompt import Prompt
from batchroute.storage.receipts import Receipt
from batchroute.storage.workdir import Workdir

# A projection needs at least this many answered rows of a shard.
_EVIDENCE_ROWS = 200
_NAMES = ("max_cost", "max_tokens")


class JobLimits:
    """`max_cost` and `max_tokens` of a job, and how much a run has used. All threads that run units share it."""

    def __init__(self, job: Job, snapshot: Snapshot, work: Workdir, alone: bool = False) -> None:
        """
        Args:
            alone: no other process commits units: `after` tells of all of them.
        """
        self._job, self._snapshot, self._alone = job, snapshot, alone
        self._lock = threading.Lock()
        self._reserved: dict[tuple[Shard, str], Amount] = {}
        read = [work.stage(stage).receipts() for stage in (layout.SCORE, layout.READ, layout.CALIBRATION_READ)]
        self._router = self._router_cost([receipt for receipts in read for receipt in receipts.values()])
        self._bounds = {shard: Bounds(model_of(job, side_of(shard)), self._price(shard)) for shard in SHARDS}
        self._stages = {shard: (shard_stage(work, shard), work.stage(shard)) for shard in SHARDS}
        self._tallies: dict[Shard, Tally] = {shard: Tally() for shard in SHARDS}
        self._pieces: dict[Shard, dict[str, Receipt]] = {}
        self._answered_now: Shard | None = None
        self._read_all()

    def refresh(self, shard: Shard) -> None:
        """Count what other processes have committed since, before a unit of `shard`.

        Where there are limits, one shard is answered at a time: the others are read again when it is another one's
        turn. So a unit costs one listing, and none where nobody else commits.
        """
        with self._lock:
            if self._answered_now not in (None, shard):
                self._read_all()
            elif not self._alone:
                self._read_new(shard)
            self._answered_now = shard

    def _read_new(self, shard: Shard) -> None:
        done, pieces = self._stages[shard][1].receipts(), self._pieces[shard]
        for unit in (done.keys() & pieces.keys()) - self._tallies[shard].done:
            self._count(shard, pieces[unit], done[unit])

    def _read_all(self) -> None:
        for shard, (assigned, answers) in self._stages.items():
            tally, done = self._tallies[shard], answers.receipts()
            begun = answers.begun_units() | answers.kept_units()
            self._pieces[shard] = assigned.receipts()
            for unit, piece in self._pieces[shard].items():
                if unit in done:
                    self._count(shard, piece, done[unit])
                elif unit not in tally.left:
                    tally.assign(piece)
                    if unit in begun:
                        tally.begun[unit] = self._begun(shard, unit)

    def add_begun(self, shard: Shard, unit: str, responses: Sequence[Response]) -> None:
        """Count answers of a unit that is not whole, if they are nowhere else."""
        tally = self._tallies[shard]
        if unit in tally.left:
            price = self._price(shard)
            answers = priced(price if price is not None and price.by_token else None, responses, 0.0)
            both = [tally.begun.get(unit, (0, 0, 0)), _begun(answers)]
            tally.begun[unit] = sum(one[0] for one in both), sum(one[1] for one in both), sum(one[2] for one in both)

    def before(self, shard: Shard, piece: Receipt) -> bool:
        """Reserve what the piece may take at most.

        Returns:
            False if the piece must wait for the units in flight, because all of them together may not fit. A piece that
            does not fit alone may begin: its rows are limited as they are asked.

        Raises:
            StoppedError: not one row more fits, or by its projection the whole run does not.
        """
        with self._lock:
            self._check(self._tallies[shard].of_a_row())
            others = [amount for key, amount in self._reserved.items() if key != (shard, piece.unit)]
            bound = self._bounds[shard].of_piece(piece)
            if others and not self._fits([*others, bound]):
                return False
            self._reserved[shard, piece.unit] = bound
        return True

    def before_all(self, shard: Shard, piece: Receipt, rows: int) -> None:
        """Reserve what rows of a piece take at most that cannot be stopped once they are asked.

        Raises:
            StoppedError: they do not fit.
        """
        with self._lock:
            bound = self._bounds[shard].likely_of_piece(piece, rows)
            self._check((0, 0))
            self._check(self._in_all([*self._reserved.values(), bound]), guessed=True)
            self._reserved[shard, piece.unit] = bound

    def reserve(self, shard: Shard, piece: Receipt, rows: int | None = None) -> None:
        """Reserve without a check: another worker, or a provider, is at the piece already."""
        bounds = self._bounds[shard]
        with self._lock:
            amount = bounds.of_piece(piece) if rows is None else bounds.likely_of_piece(piece, rows)
            self._reserved[shard, piece.unit] = amount

    def after(self, shard: Shard, piece: Receipt, committed: Receipt) -> None:
        """Count the real cost and tokens of the piece."""
        with self._lock:
            self._reserved.pop((shard, piece.unit), None)
            self._count(shard, piece, committed)

    def allowance(self, shard: Shard) -> Allowance:
        """What is left for the rows of a unit that is alone in flight, or fits together with the others."""
        with self._lock:
            limits, spent = self._limits(), self._spent()
            left = [None if limit is None else limit - amount for limit, amount in zip(limits, spent, strict=True)]
            return Allowance(self, self._bounds[shard], self._price(shard), left, self._tallies[shard])

    def stopped(self, taken: Sequence[int], more: Sequence[int]) -> StoppedError:
        """The error of a run that has too little left for its next row, which takes `more`.

        Args:
            taken: by the answers of the unit that is under way.
        """
        spent, limits = self._in_all([self._spent(), taken]), self._limits()
        over = (i for i, limit in enumerate(limits) if limit is not None and spent[i] + max(1, more[i]) > limit)
        number = next(over, 0 if limits[0] is not None else 1)
        return self._error(number, spent[number], spent[number] + more[number], guessed=False)

    def _count(self, shard: Shard, piece: Receipt, committed: Receipt) -> None:
        tally = self._tallies[shard]
        # A piece of another rank may have been counted as done before.
        known = piece.unit in tally.done
        tally.settle(piece.unit)
        if not known:
            tally.add(committed, piece.counts["tokens"], self._price(shard))

    def _begun(self, shard: Shard, unit: str) -> tuple[int, int, int]:
        stage = self._stages[shard][1]
        kept = stage.kept(unit)
        rows = [*([] if kept is None else kept.to_pylist()), *stage.begun_rows(unit)]
        # An answer that replaced a kept one has its cost in it.
        answers = {row["position"]: answer_of(row) for row in rows if row["copy_of"] is None}
        return _begun(list(answers.values()))

    def _check(self, more: Sequence[int], guessed: bool = False) -> None:
        """Raises:
        StoppedError: `more` does not fit, or by its projection the whole run does not.
        """
        spent, left = self._spent(), self._left()
        for i, limit in enumerate(self._limits()):
            if limit is None:
                continue
            projected = spent[i] + left[i]
            over = spent[i] >= limit or spent[i] + more[i] > limit
            if over or (projected > limit and self._has_evidence()):
                raise self._error(i, spent[i], max(projected, spent[i] + more[i]), guessed)

    def _error(self, number: int, spent: int, in_all: int, guessed: bool) -> StoppedError:
        name, limit = _NAMES[number], self._limits()[number]
        assert limit is not None
        shown = _shown(name, max(in_all, self._spent()[number] + self._left()[number]))
        would = f"may take up to {shown}" if guessed else f"would take {shown} or more"
        return StoppedError(
            f"{name} {_shown(name, limit)}: {_shown(name, spent)} taken so far, and the run {would}; "
            f"raise {name} and run again to go on, or choose another policy"
        )

    def _fits(self, amounts: Sequence[Amount]) -> bool:
        in_all, spent = self._in_all(amounts), self._spent()
        return all(limit is None or spent[i] + in_all[i] <= limit for i, limit in enumerate(self._limits()))

    def _in_all(self, amounts: Sequence[Sequence[int]]) -> list[int]:
        return [sum(amount[i] for amount in amounts) for i in (0, 1)]

    def _spent(self) -> list[int]:
        cost, tokens = self._in_all([tally.spent() for tally in self._tallies.values()])
        return [self._router + cost, tokens]

    def _left(self) -> list[int]:
        """Cost and tokens still to come, of the shards with at least one unit done."""
        return self._in_all([tally.expected(tally.tokens_left) for tally in self._tallies.values()])

    def _has_evidence(self) -> bool:
        begun = [tally for tally in self._tallies.values() if tally.rows and tally.left]
        return bool(begun) and all(tally.rows >= _EVIDENCE_ROWS for tally in begun)

    def _limits(self) -> list[int | None]:
        cost = None if self._job.max_cost is None else prices.pico(self._job.max_cost)
        return [cost, self._job.max_tokens]

    def _price(self, shard: Shard) -> Price | None:
        return self._snapshot.price(side_of(shard))

    def _router_cost(self, scored: Collection[Receipt]) -> int:
        """Of the router and the reader."""
        price = self._snapshot.price("router")
        if price is None:
            return 0
        if price.by_token:
            return price.of_tokens(sum(receipt.counts["tokens"] for receipt in scored), 0)
        return price.of_seconds(sum(receipt.seconds + receipt.load_seconds for receipt in scored))


class Allowance:
    """What is left of a job's limits for the rows of one unit."""

    def __init__(
        self, limits: JobLimits, bounds: Bounds, price: Price | None, left: list[int | None], tally: Tally
    ) -> None:
        self._limits, self._bounds, self._price = limits, bounds, price
        self._left, self._row = left, tally.of_a_row()
        self._rows, self._taken = 0, [0, 0]
        self._scale = 1.0

    def rows(self, prompts: Sequence[Prompt], seconds: float) -> int:
        """How many of the next prompts may be asked at once: at least one.

        The last row may be one whose bound does not fit, if rows take less as a rule and nothing else is in flight.

        Args:
            seconds: that the unit took so far, which are money where time has a price.

        Raises:
            StoppedError: too little is left for one row.
        """
        left = [None if one is None else one - taken for one, taken in zip(self._left, self._taken, strict=True)]
        mean = [taken // self._rows for taken in self._taken] if self._rows else list(self._row)
        if self._price is not None and not self._price.by_token and left[0] is not None:
            spent = self._price.of_seconds(seconds)
            left[0], mean[0] = left[0] - spent, spent // self._rows if self._rows else mean[0]
        if any(one is not None and (one <= 0 or one < row) for one, row in zip(left, mean, strict=True)):
            raise self._limits.stopped(self._taken, mean)
        # Of time no bound is known, only what rows took so far.
        bounds = [self._scaled(self._bounds.of_row(prompt), mean[0]) for prompt in prompts]
        return max(1, fitting(bounds, left))

    def fits(self, prompt: Prompt) -> bool:
        """Whether the bound of a row fits."""
        return fitting([self._bounds.of_row(prompt)], self._left) == 1

    def count(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> None:
        """Count what answers took. If one took more than its bound, so may the next ones."""
        self._rows += len(responses)
        by_token = self._price if self._price is not None and self._price.by_token else None
        for prompt, (response, cost) in zip(prompts, priced(by_token, responses, 0.0), strict=True):
            if response.answered:
                tokens, bound = _tokens(response), self._bounds.of_row(prompt)
                self._taken = [self._taken[0] + (cost or 0), self._taken[1] + tokens]
                self._scale = max(self._scale, tokens / bound[1], (cost or 0) / bound[0] if bound[0] else 0.0)

    def _scaled(self, bound: Amount, by_time: int) -> Amount:
        if self._price is not None and not self._price.by_token:
            bound = by_time, bound[1]
        return bound if self._scale == 1.0 else (int(bound[0] * self._scale) + 1, int(bound[1] * self._scale) + 1)


def _begun(answers: Sequence[Answer]) -> tuple[int, int, int]:
    """Cost, tokens and number of the answers of a unit that is not whole."""
    tokens = [_tokens(response) for response, _ in answers if response.answered and not response.from_cache]
    return sum(cost or 0 for _, cost in answers), sum(tokens), len(tokens)


def _tokens(response: Response) -> int:
    sampled = response.sample_input_tokens + response.sample_output_tokens
    return response.input_tokens + response.output_tokens + sampled


def _shown(name: str, amount: int) -> str:
    return f"{amount:,}" if name == "max_tokens" else words.money(prices.usd(amount))
