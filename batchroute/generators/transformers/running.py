"""Refilled batches, the model runner: prefills rows into slots and decodes one token of each running row a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicCache, DynamicLayer

from batchroute.generators.settings import Sampling
from batchroute.generators.transformers.decoding import Stops, draw, log_probabilities, uniforms, warpers
from batchroute.generators.transformers.loading import Loaded
from batchroute.generators.transformers.rows import Request, Writer
from batchroute.generators.transformers.slots import Slots, states

_WINDOW = "sliding_attention"


@dataclass(slots=True, eq=False)
class Row:
    """A request, and the state of its response.

    Attributes:
        prefix: the first tokens of the prompt, if the model prefills them once for all rows that begin with them.
        shared: whether the prefix is kept once for all rows, which one prefix can be, or copied into the row's slot.
        written: the tokens of the response so far.
        logprobs: of `written`; empty if the model is not asked for them.
        uniforms: the random numbers of sampling, one for each token; None for greedy decoding.
    """

    request: Request
    prefix: tuple[int, ...] = ()
    shared: bool = False
    written: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    uniforms: NDArray[Any] | None = None

    @property
    def unread(self) -> list[int]:
        """The tokens to prefill: without the prefix, and without the last one, which the first step takes."""
        return self.request.tokens[len(self.prefix) : -1]

    @property
    def position(self) -> int:
        """The position of the token that the next step takes."""
        return len(self.request.tokens) + len(self.written) - 1

    @property
    def column(self) -> int:
        """The column of the row's slot for that token."""
        return self.position - (len(self.prefix) if self.shared else 0)


class Running:
    """The rows that are running, and their keys and values.

    Attributes:
        rows: the running rows, each at the number of its slot.
    """

    def __init__(self, loaded: Loaded, writer: Writer, sampling: Sampling, slots: int, width: int) -> None:
        """
        Args:
            slots: the most rows at a time.
            width: the columns of a slot, for a row's prompt and response.
        """
        self.rows: list[Row] = []
        self._model, self._device = loaded.model, loaded.device
        self._writer = writer
        self._sampling = sampling
        self._stops = Stops(writer.tokenizer, writer.stops)
        self._warpers = None if sampling.greedy else warpers(sampling)
        self._slots = Slots(slots, width)
        self._prefixes: dict[tuple[int, ...], DynamicCache] = {}
        config = loaded.config.get_text_config()
        self._kinds: Sequence[str] | None = getattr(config, "layer_types", None)
        self._window: int | None = getattr(config, "sliding_window", None)

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

    @torch.inference_mode()
    def resize(self, slots: int, width: int) -> None:
        self._slots.resize(slots, width, len(self.rows), max((row.column for row in self.rows), default=0))

    @torch.inference_mode()
    def prefill(self, group: Sequence[Row]) -> None:
        """Read prompts with the same prefix, equal ones once, and add their rows to the running ones."""
        numbers: dict[tuple[int, ...], int] = {}
        sources = [numbers.setdefault(tuple(row.unread), len(numbers)) for row in group]
        prefix, width = group[0].prefix, max(map(len, numbers))
        cache = self._prefixed(group[0], len(numbers))
        if width:
            # Padding stands behind the tokens, which attend to nothing behind them: no mask is needed.
            pad = group[0].request.tokens[-1:]
            self._forward([[*tokens, *(width - len(tokens)) * pad] for tokens in numbers], cache)
        self._slots.join(cache, sources, len(self.rows), len(prefix) if group[0].shared else 0)
        for row in group:
            if self._warpers is not None:
                row.uniforms = uniforms(row.request.seed, self._sampling.max_new_tokens)
        self.rows += group

    @torch.inference_mode()
    def step(self) -> list[tuple[Row, int | None]]:
        """Decode one token of each row.

        Returns:
            The rows that have ended, which run no longer, each with the number of its tokens if a stop string ended it.
        """
        positions = torch.tensor([row.position for row in self.rows], device=self._device)
        columns = self._slots.at([row.column for row in self.rows], self._device)
        last = [[(row.written or row.request.tokens)[-1]] for row in self.rows]
        with self._slots.attended(self._model):
            logits = self._model(
                input_ids=torch.tensor(last, device=self._device),
                attention_mask=self._masks(positions, columns),
                position_ids=positions[:, None],
                past_key_values=self._slots,
                use_cache=True,
                logits_to_keep=1,
                slots=self._slots,
            ).logits
        scores = logits[:, -1].float()
        chosen = self._chosen(scores)
        for row, token in zip(self.rows, chosen.tolist(), strict=True):
            row.written.append(token)
        if self._writer.logprobs:
            for row, logprob in zip(self.rows, log_probabilities(scores, chosen).tolist(), strict=True):
                row.logprobs.append(logprob)
        stopped = self._stops.found([row.written[-self._stops.tail :] for row in self.rows])
        ended = [
            stop or row.written[-1] in self._writer.ends or len(row.written) == self._sampling.max_new_tokens
            for row, stop in zip(self.rows, stopped, strict=True)
        ]
        done = [
            (row, len(row.written) if stop else None)
            for row, stop, end in zip(self.rows, stopped, ended, strict=True)
            if end
        ]
        if done:
            self._leave(ended)
        return done

    def _leave(self, ended: Sequence[bool]) -> None:
        """Drop the rows that ended, and move rows of the last slots into the free ones."""
        left = len(ended) - sum(ended)
        targets = [slot for slot in range(left) if ended[slot]]
        sources = [slot for slot in range(left, len(ended)) if not ended[slot]]
        if sources:
            self._slots.move(sources, targets, max(self.rows[slot].column for slot in sources))
        for source, target in zip(sources, targets, strict=True):
            self.rows[target] = self.rows[source]
        del self.rows[left:]

    def _prefixed(self, first: Row, rows: int) -> DynamicCache:
        """A cache of `rows` rows that contains the prefix of `first`, which the model reads once."""
        # Made without a configuration, layers with a sliding window keep all tokens too.
        cache, prefix = DynamicCache(), first.prefix
        if not prefix:
            return cache
        if prefix not in self._prefixes:
            read = DynamicCache()
            self._forward([list(prefix)], read)
            self._prefixes[prefix] = read
            if first.shared:
                self._slots.share(read)
        for keys, values in states(self._prefixes[prefix]):
            layer = DynamicLayer()  # type: ignore[no-untyped-call]
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = (kept.expand(rows, -1, -1, -1) for kept in (keys, values))
            cache.layers.append(layer)
        return cache

    def _forward(self, tokens: list[list[int]], cache: DynamicCache) -> None:
        ids = torch.tensor(tokens, device=self._device)
        rows, width = ids.shape
        before = cache.get_seq_length()
        self._model(
            input_ids=ids,
            attention_mask=ids.new_ones((rows, before + width)),
            position_ids=torch.arange(before, before + width, device=self._device).expand(rows, -1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )

    def _masks(self, positions: torch.Tensor, columns: torch.Tensor) -> Any:
        """The masks of each row's new token: one, or one for each kind of layers, as transformers takes them."""
        at = torch.arange(max(seen for _, _, seen in self._slots.spans), device=self._device)
        # Columns of the slot as positions in the row. For a row without the shared prefix, `where` masks the prefix.
        begins = (positions - columns)[:, None]
        before = torch.arange(self._slots.shared, device=self._device).expand(len(self.rows), -1)
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
        """The next token of each row, of shape [rows], from logits of shape [rows, vocabulary]."""
        if self._warpers is None:
            return scores.argmax(dim=-1)
        numbers = [row.uniforms[len(row.written)] for row in self.rows if row.uniforms is not None]
        # These processors read the scores alone, so the input ids may be empty.
        scores = self._warpers(scores.new_empty(0), scores)  # type: ignore[arg-type]
        return draw(scores, torch.tensor(numbers, dtype=torch.float64, device=scores.device))
