from __future__ import annotations

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    BartConfig,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    T5Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES as IMAGES
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as SEQ_TO_SEQ

from batchroute.generators.transformers.memory import (
    FixedRows,
    RowsByMemory,
    footprint,
    free_bytes,
    row_bytes,
    rows_that_fit,
)
from batchroute.models.configuration import largest_matrix

HALF = 2
GIB = 1 << 30
LLAMA_2_7B = LlamaConfig()
LLAMA_3_8B = LlamaConfig(
    vocab_size=128_256, intermediate_size=14_336, num_key_value_heads=8, max_position_embeddings=8_192
)
MISTRAL_7B = MistralConfig()
FLAN_T5_LARGE = T5Config(d_model=1024, d_ff=2816, d_kv=64, num_layers=24, num_heads=16, feed_forward_proj="gated-gelu")
GPT_2 = GPT2Config()
GEMMA_3_1B = Gemma3TextConfig(
    num_hidden_layers=26, num_attention_heads=4, num_key_value_heads=1, head_dim=256, hidden_size=1152,
    intermediate_size=6912, sliding_window=512,
)  # fmt: skip
FALCON_7B = FalconConfig()


@pytest.mark.parametrize(
    ("config", "bytes_per_token"),
    [
        # Two (key and value) · layers · key-value heads · head dimension · 2 bytes.
        (LLAMA_2_7B, 2 * 32 * 32 * 128 * 2),
        (LLAMA_3_8B, 2 * 32 * 8 * 128 * 2),
        (MISTRAL_7B, 2 * 32 * 8 * 128 * 2),
        (FLAN_T5_LARGE, 2 * 24 * 16 * 64 * 2),
        (BartConfig(), 2 * 12 * 16 * 64 * 2),
        (GPT_2, 2 * 12 * 12 * 64 * 2),
        (GEMMA_3_1B, 2 * 26 * 1 * 256 * 2),
        (FALCON_7B, 2 * 32 * 1 * 64 * 2),
    ],
    ids=["llama-2-7b", "llama-3-8b", "mistral-7b", "flan-t5-large", "bart", "gpt-2", "gemma-3-1b", "falcon-7b"],
)
def test_a_token_caches_a_key_and_a_value_in_every_layer(config: PreTrainedConfig, bytes_per_token: int) -> None:
    found = footprint(config, HALF)
    assert found.cached + found.windowed == bytes_per_token
    wide = footprint(config, 2 * HALF)
    assert wide.cached + wide.windowed == 2 * bytes_per_token


def test_a_decoder_of_an_encoder_decoder_counts_its_own_layers() -> None:
    config = T5Config(d_model=512, num_layers=12, num_decoder_layers=3, num_heads=8, d_kv=64)
    assert footprint(config, HALF).cached == 2 * 3 * 8 * 64 * 2


def test_a_row_is_its_cache_its_reading_and_its_logits() -> None:
    prompt, new = 1_000, 256
    kept = 2 * 32 * 8 * 128 * 2 * (prompt + new)
    read = (4 * 4096 + 3 * 14_336) * 2 * prompt
    logits = 128_256 * (4 + 2)
    assert row_bytes(footprint(LLAMA_3_8B, HALF), prompt, new) == kept + read + prompt * prompt + logits


def test_the_cache_is_most_of_a_row_and_long_rows_take_more() -> None:
    llama = footprint(LLAMA_2_7B, HALF)
    assert 2 * 32 * 32 * 128 * 2 * 1_256 / row_bytes(llama, 1_000, 256) > 0.8
    assert row_bytes(llama, 2_000, 256) > 1.8 * row_bytes(llama, 1_000, 256)


def test_a_sliding_window_bounds_the_cache() -> None:
    mistral = footprint(MISTRAL_7B, HALF)
    assert (mistral.cached, mistral.window) == (0, 4096)
    free = footprint(MistralConfig(sliding_window=None), HALF)
    for prompt in (1_000, 3_840):
        assert row_bytes(mistral, prompt, 256) == row_bytes(free, prompt, 256)
    beyond = row_bytes(free, 8_000, 256) - row_bytes(mistral, 8_000, 256)
    assert beyond == 2 * 32 * 8 * 128 * 2 * (8_256 - 4_096)


def test_only_the_layers_with_a_window_are_bounded() -> None:
    gemma = footprint(GEMMA_3_1B, HALF)
    per_layer = 2 * 1 * 256 * 2
    full = list(GEMMA_3_1B.layer_types or ()).count("full_attention")
    assert 0 < full < 26
    assert (gemma.cached, gemma.windowed, gemma.window) == (full * per_layer, (26 - full) * per_layer, 512)


def test_attention_with_relative_positions_takes_scores_of_every_head() -> None:
    assert footprint(FLAN_T5_LARGE, HALF).squared == 2 * 16 * 2
    assert footprint(LLAMA_2_7B, HALF).squared == 1


def test_drawn_tokens_take_copies_of_the_logits() -> None:
    assert footprint(GPT_2, HALF).logits == 50_257 * 6
    assert footprint(GPT_2, HALF, sampled=True).logits == 50_257 * 34


@pytest.mark.parametrize(
    ("config", "gib", "prompt", "new", "expected"),
    [
        # An 80 GB GPU holds 13.5 GB of Llama 2 7B, and 16 GB of Llama 3 8B.
        (LLAMA_2_7B, 66, 500, 256, range(120, 200)),
        (LLAMA_3_8B, 64, 500, 256, range(400, 560)),
        (LLAMA_3_8B, 64, 7_000, 256, range(30, 60)),
        # A 16 GB GPU.
        (FLAN_T5_LARGE, 13, 512, 128, range(100, 180)),
        (GPT_2, 14, 512, 128, range(200, 500)),
    ],
)
def test_rows_that_fit_are_of_a_plausible_number(
    config: PreTrainedConfig, gib: int, prompt: int, new: int, expected: range
) -> None:
    shape = footprint(config, HALF)
    found = rows_that_fit(shape, gib * GIB, prompt, new)
    assert found in expected
    assert found * row_bytes(shape, prompt, new) <= gib * GIB < (found + 1) * row_bytes(shape, prompt, new)


class TestRowsByMemory:
    def sizes(self, gib: float, new: int = 256) -> RowsByMemory:
        return RowsByMemory(footprint(LLAMA_2_7B, HALF), new, lambda: int(gib * GIB))

    def test_short_rows_make_larger_batches(self) -> None:
        sizes = self.sizes(40)
        found = [sizes.rows(longest) for longest in (3_000, 1_000, 300, 100)]
        assert found == sorted(found)
        assert found[0] < found[-1] / 5

    def test_a_share_of_the_memory_stays_free(self) -> None:
        expected = rows_that_fit(footprint(LLAMA_2_7B, HALF), int(32 * GIB), 1_000, 256)
        assert self.sizes(40).rows(1_000) == expected

    def test_there_is_always_one_row_and_never_more_than_512(self) -> None:
        assert self.sizes(0).rows(4_000) == 1
        assert self.sizes(10_000).rows(10) == 512

    def test_each_batch_asks_for_the_free_memory_again(self) -> None:
        free = [40 * GIB, 10 * GIB]
        sizes = RowsByMemory(footprint(LLAMA_2_7B, HALF), 256, lambda: free.pop(0))
        before, after = sizes.rows(1_000), sizes.rows(1_000)
        assert before == pytest.approx(4 * after, abs=4)

    def test_a_batch_that_does_not_fit_is_halved_and_so_are_the_estimates(self) -> None:
        sizes = self.sizes(40)
        tried, short = sizes.rows(1_000), self.sizes(40).rows(300)
        sizes.shrink(tried)
        assert sizes.rows(1_000) == pytest.approx(tried / 2, abs=1)
        assert sizes.rows(300) == pytest.approx(short / 2, abs=1)
        sizes.shrink(sizes.rows(1_000))
        assert sizes.rows(1_000) == pytest.approx(tried / 4, abs=1)

    def test_a_last_batch_that_was_smaller_than_the_estimate_counts_as_what_it_was(self) -> None:
        sizes = self.sizes(40)
        assert sizes.rows(1_000) > 20
        sizes.shrink(20)
        assert sizes.rows(1_000) in (9, 10)

    def test_the_most_rows_are_halved_too(self) -> None:
        sizes = self.sizes(1_000, new=16)
        assert sizes.rows(10) == 512
        sizes.shrink(512)
        assert sizes.rows(10) in (255, 256)


def test_fixed_rows_are_halved_for_good() -> None:
    sizes = FixedRows(16)
    assert sizes.rows(10) == sizes.rows(1_000) == 16
    sizes.shrink(7)
    assert sizes.rows(1_000) == 3


def test_free_memory_is_that_of_the_driver_and_what_torch_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [torch.device("cuda", index) for index in (0, 1)]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 + device.index, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert free_bytes(gpus[:1]) == 40
    assert free_bytes(gpus) == 80


class TestOtherShapes:
    def test_layers_that_differ_are_counted_one_by_one(self) -> None:
        config = LlamaConfig(
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=8,
            head_dim=16,
            per_layer_config={1: {"num_key_value_heads": 2}, 3: {"head_dim": 32}},
        )
        assert footprint(config, HALF).cached == 2 * (8 * 16 + 2 * 16 + 8 * 16 + 8 * 32) * HALF

    def test_heads_in_a_list_are_those_of_the_layers(self) -> None:
        config = LlamaConfig(hidden_size=128, num_hidden_layers=3, num_attention_heads=8, head_dim=16)
        object.__setattr__(config, "num_key_value_heads", [8, 4, 2])
        assert footprint(config, HALF).cached == 2 * (8 + 4 + 2) * 16 * HALF

    @pytest.mark.parametrize("kind", sorted({*CAUSAL, *SEQ_TO_SEQ, *IMAGES}))
    def test_every_configuration_of_transformers_has_one(self, kind: str) -> None:
        try:
            config = CONFIG_MAPPING[kind]()
        except (ImportError, TypeError, ValueError, KeyError, StrictDataclassError):
            pytest.skip("its configuration has no defaults, or needs a package")
        found = footprint(config, HALF)
        assert row_bytes(found, 100, 10) > 0
        assert min(largest_matrix(config)) > 0
