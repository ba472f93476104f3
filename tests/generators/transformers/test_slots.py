from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicCache

from batchroute.generators.transformers.attention import attend
from batchroute.generators.transformers.slots import Segment, Slots

HEADS, GROUPS, DIM = 4, 2, 8
CPU = torch.device("cpu")
LAYER: Any = SimpleNamespace(layer_idx=0)


def states(rows: int, columns: int, seed: int, groups: int = GROUPS) -> torch.Tensor:
    """Keys, values or queries of the shape [rows, groups, columns, dim]."""
    return torch.randn((rows, groups, columns, DIM), generator=torch.Generator().manual_seed(seed))


def read(rows: int, columns: int, seed: int) -> DynamicCache:
    """A cache of one layer that has read so much."""
    cache = DynamicCache()
    cache.update(states(rows, columns, seed), states(rows, columns, seed + 1000), 0)
    return cache


def kept(slots: Slots, row: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    layer = slots.layers[0]
    return layer.keys[row, :, :columns], layer.values[row, :, :columns]


def equal(found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def of(cache: DynamicCache, row: int, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
    layer = cache.layers[0]
    assert layer.keys is not None
    assert layer.values is not None
    return layer.keys[row, :, columns], layer.values[row, :, columns]


def test_rows_join_behind_those_that_run_and_leave_the_prefix_out() -> None:
    slots = Slots(6, 20)
    first, second = read(2, 7, 1), read(2, 9, 2)
    slots.join(first, [0, 1], 0, 0)
    slots.join(second, [1, 0, 1], 2, 3)
    assert equal(kept(slots, 1, 7), of(first, 1, slice(7)))
    for slot, source in ((2, 1), (3, 0), (4, 1)):
        assert equal(kept(slots, slot, 6), of(second, source, slice(3, 9)))
    assert slots.bytes == 2 * 6 * GROUPS * 20 * DIM * 4


def test_a_row_that_is_moved_and_slots_that_are_resized_keep_all_tokens() -> None:
    slots = Slots(4, 20)
    cache = read(4, 7, 1)
    slots.join(cache, [0, 1, 2, 3], 0, 0)
    slots.move([2, 3], [1, 0], 7)
    assert [equal(kept(slots, slot, 7), of(cache, row, slice(7))) for slot, row in ((0, 3), (1, 2))] == [True, True]
    slots.resize(9, 8, [7, 5])
    assert equal(kept(slots, 0, 7), of(cache, 3, slice(7)))
    assert equal(kept(slots, 1, 5), of(cache, 2, slice(5)))
    assert slots.layers[0].keys.shape == (9, GROUPS, 8, DIM)
    assert not slots.layers[0].keys[2:].any()
    assert not slots.layers[0].values[:, :, 7:].any()
    assert not slots.layers[0].values[1, :, 5:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_slots_begin_as_zeros_of_the_models_precision(dtype: torch.dtype) -> None:
    found = Slots(3, 5).zeros(states(1, 2, 0).to(dtype))
    assert (found.dtype, tuple(found.shape)) == (dtype, (3, GROUPS, 5, DIM))
    assert not found.any()
    found += 1


def test_each_row_writes_its_token_in_a_column_of_its_own() -> None:
    slots = Slots(4, 20)
    cache = read(3, 7, 1)
    slots.join(cache, [0, 1, 2], 0, 0)
    slots.at([4, 7, 2], CPU)
    keys, values = states(3, 1, 5), states(3, 1, 6)
    slots.update(keys, values, 0)
    for row, column in enumerate((4, 7, 2)):
        assert equal(
            tuple(part[:, column] for part in kept(slots, row, 8)),
            (keys[row, :, 0], values[row, :, 0]),  # type: ignore[arg-type]
        )
        assert equal(kept(slots, row, column), of(cache, row, slice(column)))
    assert slots.get_seq_length() == 7


def test_rows_of_unlike_lengths_attend_apart() -> None:
    slots = Slots(40, 1002)
    slots.at([1000, 10, 12, 700, 650], CPU)
    assert slots.spans == [(0, 1, 1001), (1, 3, 13), (3, 5, 701)]
    slots.at([8] * 40, CPU)
    assert slots.spans == [(0, 16, 9), (16, 32, 9), (32, 40, 9)]


@pytest.mark.parametrize("shared", [0, 11])
@pytest.mark.parametrize("rows", [3, 40])
def test_attention_is_that_of_each_row_alone(shared: int, rows: int) -> None:
    """Rows of all lengths, beside a prefix that every third row has not, against torch's own attention."""
    slots = Slots(rows, 30)
    prefix = read(1, shared, 9)
    if shared:
        slots.share(prefix)
    cache = read(rows, 25, 1)
    slots.join(cache, range(rows), 0, 0)
    lengths = [1 + (7 * row) % 24 for row in range(rows)]
    slots.at(lengths, CPU)
    query, keys, values = states(rows, 1, 3, HEADS), states(rows, 1, 4), states(rows, 1, 5)
    kept_keys, kept_values = slots.update(keys, values, 0)
    mask = torch.full((rows, 1, 1, shared + max(lengths) + 1), torch.finfo(torch.float32).min)
    for row, length in enumerate(lengths):
        mask[row, ..., shared : shared + length + 1] = 0
        mask[row, ..., : shared if row % 3 else 0] = 0
    found, _ = attend(LAYER, query, kept_keys, kept_values, mask, slots, scaling=0.3)
    assert found.shape == (rows, 1, HEADS, DIM)
    for row, length in enumerate(lengths):
        parts = [of(prefix, 0, slice(shared))] if shared and row % 3 else []
        parts += [of(cache, row, slice(length)), (keys[row], values[row])]
        own_keys, own_values = (torch.cat([part[i] for part in parts], dim=1)[None] for i in (0, 1))
        alone = torch.nn.functional.scaled_dot_product_attention(
            query[row : row + 1], own_keys, own_values, scale=0.3, enable_gqa=True
        )
        torch.testing.assert_close(found[row : row + 1].transpose(1, 2), alone)


@pytest.mark.parametrize("prefix", ["none", "of all", "of these rows"])
def test_prompts_that_are_read_end_to_end_attend_each_to_itself_and_to_its_prefix(prefix: str) -> None:
    slots, begins = Slots(4, 40), 0 if prefix == "none" else 5
    before = read(1, 5, 9)
    if prefix == "of all":
        slots.share(before)
    if prefix == "of these rows":
        slots.join(before, [0, 0, 0], 1, 0)
    lengths = [7, 1, 30]
    ends = [sum(lengths[: number + 1]) for number in range(3)]
    own = begins if prefix == "of these rows" else 0
    slots.read(
        [
            Segment(1 + number, end - length, end)
            for number, (length, end) in enumerate(zip(lengths, ends, strict=True))
        ],
        own,
        behind_shared=prefix == "of all",
        last=0,
    )
    query, keys, values = states(1, 38, 3, HEADS), states(1, 38, 4), states(1, 38, 5)
    kept_keys, kept_values = slots.update(keys, values, 0)
    found, _ = attend(LAYER, query, kept_keys, kept_values, torch.empty(0), slots, scaling=0.3)
    assert found.shape == (1, 38, HEADS, DIM)
    for slot, length, end in zip((1, 2, 3), lengths, ends, strict=True):
        read_tokens = slice(end - length, end)
        assert equal(
            tuple(part[:, own:] for part in kept(slots, slot, own + length)),
            (keys[0, :, read_tokens], values[0, :, read_tokens]),  # type: ignore[arg-type]
        )
        parts = [of(before, 0, slice(begins)), (keys[0, :, read_tokens], values[0, :, read_tokens])]
        seen = torch.ones(length, begins + length, dtype=torch.bool).tril(begins)
        alone = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, read_tokens],
            *(torch.cat([part[i] for part in parts], dim=1)[None] for i in (0, 1)),
            attn_mask=seen,
            scale=0.3,
            enable_gqa=True,
        )
        torch.testing.assert_close(found[:, read_tokens].transpose(1, 2), alone)
