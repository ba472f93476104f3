"""Refilled batches, the model runner: prefills rows into slots and decodes one token of each running row a step.

Rows of one prompt that have written the same so far, as the samples of a prompt at first do, are a branch: one slot and
one computation a step. Each row draws its own token; rows that draw different ones part into branches.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import torch

from batchroute.generators.settings import Sampling
from batchroute.generators.transformers.attention import attention
from batchroute.generators.transformers.decoding import (
    Stops,
    draw,
    likeliest,
    log_probabilities,
    uniforms,
    warpers,
)
from batchroute.generators.transformers.finite import finite_rows
from batchroute.generators.transformers.loading import Loaded
from batchroute.generators.transformers.prefill import Prefill
from batchroute.generators.transformers.row import Row
from batchroute.generators.transformers.rows import Writer
from batchroute.generators.transformers.slots import Slots

_WINDOW = "sliding_attention"


class Running:
    """The rows that are running, and their keys and values.

    Attributes:
        branches: at the number of its slot, the rows that have the same prompt and have written the same.
    """

    def __init__(self, loaded: Loaded, writer: Writer, sampling: Sampling, slots: int, width: int) -> None:
        """
        Args:
            slots: the most rows at a time: each may become a branch of its own.
            width: the columns of a slot, for a row's prompt and response.
        """
        self.branches: list[list[Row]] = []
        self._model, self._device = loaded.model, loaded.device
        self._writer = writer
        self._sampling = sampling
        self._stops = Stops(writer.tokenizer, writer.stops)
        self._warpers = None if sampling.greedy else warpers(sampling)
        self._slots = Slots(slots, width)
        self._prefill = Prefill(loaded, self._slots)
        config = loaded.config.get_text_config()
        self._kinds: Sequence[str] | None = getattr(config, "layer_types", None)
        self._window: int | None = getattr(config, "sliding_window", None)

    @property
    def rows(self) -> list[Row]:
        """The running rows, branch by branch."""
        return [row for branch in self.branches for row in branch]

    @property
    def slots(self) -> int:
        return self._slots.slots

    @property
    def width(self) -> int:
        return self._slots.width

    @property
    def bytes(self) -> int:
        """The memory of keys and values."""
        return self._slots.bytes

    def close(self) -> None:
        """Free the keys and values."""
        self._slots.free()
        self._prefill.close()

    @torch.inference_mode()
    def resize(self, slots: int, width: int) -> None:
        columns = [branch[0].column for branch in self.branches]
        self._slots.resize(slots, width, columns)

    @torch.inference_mode()
    def prefill(self, group: Sequence[Row]) -> None:
        """Read prompts with the same prefix, equal ones once, and add their rows to the running ones."""
        branches: dict[tuple[int, ...], list[Row]] = {}
        for row in group:
            branches.setdefault(tuple(row.request.tokens), []).append(row)
        self._prefill.read([branch[0] for branch in branches.values()], len(self.branches))
        for row in group:
            if self._warpers is not None:
                row.uniforms = uniforms(row.request.seed, self._sampling.max_new_tokens)
        self.branches += branches.values()

    @torch.inference_mode()
    def step(self) -> list[tuple[Row, int | None]]:
        """Decode one token of each row.

        Returns:
            The rows that have ended, which run no longer, each with the number of its tokens if a stop string ended it.
        """
        first = [branch[0] for branch in self.branches]
        positions = torch.tensor([row.position for row in first], device=self._device)
        columns = self._slots.at([row.column for row in first], self._device)
        last = [[(row.written or row.request.tokens)[-1]] for row in first]
        with attention(self._model):
            logits = self._model(
                input_ids=torch.tensor(last, device=self._device),
                attention_mask=self._masks(positions, columns),
                position_ids=positions[:, None],
                past_key_values=self._slots,
                use_cache=True,
                logits_to_keep=1,
                slots=self._slots,
            ).logits
        self._write(logits[:, -1].float())
        rows = self.rows
        stopped = self._stops.found([row.written[-self._stops.tail :] for row in rows])
        done: dict[Row, int | None] = {}
        for row, found in zip(rows, stopped, strict=True):
            stop = found and self._writer.is_stopped(row.request, row.written)
            whole = row.written[-1] in self._writer.ends or len(row.written) == self._sampling.max_new_tokens
            if stop or whole or row.lost:
                done[row] = len(row.written) if stop else None
        self._part(done)
        return list(done.items())

    def _write(self, scores: torch.Tensor) -> None:
        """Append its next token to each row, from the model's own logits of shape [branches, vocabulary]."""
        chosen = self._chosen(scores)
        lost = [number for number, good in enumerate(finite_rows(scores).tolist()) if not good]
        for row in (row for number in lost for row in self.branches[number]):
            row.lost = True
        if lost:
            self._slots.clean(lost)
        logprobs = log_probabilities(scores, chosen).tolist() if self._writer.logprobs else None
        for number, (branch, tokens) in enumerate(zip(self.branches, chosen.tolist(), strict=True)):
            for draw_number, row in enumerate(branch):
                # Greedy rows of a branch have one token between them.
                at = min(draw_number, len(tokens) - 1)
                row.written.append(tokens[at])
                if logprobs is not None:
                    row.logprobs.append(logprobs[number][at])

    def _part(self, done: Container[Row]) -> None:
        """Drop the rows that ended, part branches whose rows wrote different tokens, and fill the first slots."""
        parts: list[tuple[int, list[Row]]] = []
        for slot, branch in enumerate(self.branches):
            by_token: dict[int, list[Row]] = {}
            for row in branch:
                if row not in done:
                    by_token.setdefault(row.written[-1], []).append(row)
            parts += [(slot, rows) for rows in by_token.values()]
        if [slot for slot, _ in parts] == list(range(len(self.branches))):
            self.branches = [rows for _, rows in parts]
            return
        # The first part of a branch stays in its slot if that is one of the first; the others take the free ones.
        kept: dict[int, list[Row]] = {}
        moved: list[tuple[int, list[Row]]] = []
        for slot, rows in parts:
            if slot < len(parts) and slot not in kept:
                kept[slot] = rows
            else:
                moved.append((slot, rows))
        free = [slot for slot in range(len(parts)) if slot not in kept]
        if moved:
            sources = [slot for slot, _ in moved]
            self._slots.move(sources, free, max(rows[0].column for _, rows in moved))
        kept |= {slot: rows for slot, (_, rows) in zip(free, moved, strict=True)}
        self.branches = [kept[slot] for slot in range(len(parts))]

    def _masks(self, positions: torch.Tensor, columns: torch.Tensor) -> Any:
        """The masks of each row's new token: one, or one for each kind of layers, as transformers takes them."""
        at = torch.arange(max(seen for _, _, seen in self._slots.spans), device=self._device)
        # Columns of the slot as positions in the row. For a row without the shared prefix, `where` masks the prefix.
        begins = (positions - columns)[:, None]
        before = torch.arange(self._slots.shared, device=self._device).expand(len(self.branches), -1)
        where = torch.cat([torch.where(begins > 0, before, positions[:, None] + 1), at + begins], dim=1)
        full = where <= positions[:, None]
        windowed = full if self._window is None else full & (where > positions[:, None] - self._window)
        if self._kinds is None:
            return self._mask(windowed)
        return {kind: self._mask(windowed if kind == _WINDOW else full) for kind in set(self._kinds)}

    def _mask(self, seen: torch.Tensor) -> torch.Tensor:
        """A mask that is added to attention scores, of shape [rows, 1, 1, columns]."""
        dtype = self._model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None, None]

    def _chosen(self, scores: torch.Tensor) -> torch.Tensor:
        """The next tokens, of shape [branches, most rows of one], from logits of shape [branches, vocabulary].

        A branch with fewer rows has more draws than it needs. Greedy decoding has one token a branch.
        """
        if self._warpers is None:
            return likeliest(scores)
        most = max(map(len, self.branches))
        numbers = np.zeros((len(self.branches), most))
        for at, branch in enumerate(self.branches):
            numbers[at, : len(branch)] = [row.uniforms[len(row.written)] for row in branch if row.uniforms is not None]
        # These processors read the scores alone, so the input ids may be empty.
        scores = self._warpers(scores.new_empty(0), scores)  # type: ignore[arg-type]
        return draw(scores, torch.from_numpy(numbers).to(scores.device))
