from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from batchroute.generators.base import Response
from batchroute.generators.settings import Confidence, ModelSpec
from batchroute.generators.transformers.generator import TransformersGenerator
from batchroute.generators.transformers.loading import load
from batchroute.generators.transformers.refill import RefilledBatches, _RowsBySlots, can_refill
from batchroute.generators.transformers.row import Row
from batchroute.generators.transformers.rows import Request, Writer
from batchroute.generators.transformers.running import Running
from tests.generators.transformers.tiny_generators import CONTEXT, tiny_decoder, tiny_encoder_decoder
from tests.support.tiny_models import tiny_tokenizer

CPU = torch.device("cpu")
NEW = 12
PROMPTS = [
    "hello",
    "What is 12 plus 30? Answer with one number only.",
    "a",
    "The quick brown fox jumps over the lazy dog",
    "Ünïcode ☃ 你好",
    "hello",
    "Translate the sentence into French",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "b",
    "What is 12 plus 3?",
]
SEEDS = list(range(len(PROMPTS)))
EXAMPLES = "The quick brown fox jumps over the lazy dog. "
SAMPLED = {"temperature": 1.3, "top_k": 50, "top_p": 0.95}
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}
FAMILIES: dict[str, Any] = {
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, SHAPE),
    "mistral": (MistralForCausalLM, MistralConfig, SHAPE | {"num_key_value_heads": 2, "sliding_window": 8}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, SHAPE | {"num_key_value_heads": 2, "head_dim": 16}),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        SHAPE
        | {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16}
        | {"layer_types": ["sliding_attention", "full_attention"], "tie_word_embeddings": False},
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: family(tmp_path_factory.mktemp(name), name) for name in FAMILIES}
    return found | {"llama": tiny_decoder(tmp_path_factory.mktemp("llama"))}


@pytest.fixture
def llama(folders: dict[str, Path]) -> Path:
    return folders["llama"]


def family(folder: Path, name: str) -> Path:
    tokenizer = tiny_tokenizer(folder)
    make, config, shape = FAMILIES[name]
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make(config(vocab_size=len(tokenizer), **shape, **ids))
        for weights in model.parameters():
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.4)
    model.save_pretrained(folder)
    return folder


def spec(folder: Path, batching: str = "auto", batch_size: int | str = "auto", **more: Any) -> ModelSpec:
    settings = {"backend": "transformers", "model": str(folder), "batching": batching, "batch_size": batch_size}
    return ModelSpec.model_validate({**settings, "generation": {"max_new_tokens": NEW, **more}})


def make(folder: Path, batch_size: int | str = "auto", **more: Any) -> Any:
    generator = TransformersGenerator(spec(folder, "auto", batch_size, **more), CPU)
    assert generator._refilled is not None
    return generator


def static(folder: Path, prompts: Sequence[str] = PROMPTS, **more: Any) -> list[Response]:
    generator = TransformersGenerator(spec(folder, "static", **more), CPU)
    return generator.generate(list(prompts), SEEDS[: len(prompts)])


def alone(folder: Path, prompts: Sequence[str]) -> list[list[int]]:
    """What `model.generate` writes when it is asked for one prompt after another, with no batch and no pad."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            sequence = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW
            )
        found.append(sequence[0, ids.shape[1] :].tolist())
    return found


def only_refilled(generator: Any) -> Any:
    """The same generator, where no row can be left to static batches unseen."""
    generator._static = None
    return generator


class TestAnswers:
    @pytest.mark.parametrize("prefix", ["", EXAMPLES])
    @pytest.mark.parametrize("name", ["llama", *FAMILIES])
    def test_a_row_is_answered_as_the_model_answers_it_alone(
        self, folders: dict[str, Path], name: str, prefix: str
    ) -> None:
        prompts = [prefix + prompt for prompt in PROMPTS]
        tokenizer = AutoTokenizer.from_pretrained(folders[name])
        expected = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in alone(folders[name], prompts)]
        assert len(set(expected)) >= 5
        for rows in (1, 3, "auto"):
            found = only_refilled(make(folders[name], rows)).generate(prompts, SEEDS)
            assert [response.text for response in found] == expected

    @pytest.mark.parametrize("generation", [{}, SAMPLED], ids=["greedy", "sampled"])
    @pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
    def test_they_are_those_of_static_batches_whatever_the_rows_at_a_time(
        self, llama: Path, generation: dict[str, Any], batch_size: int
    ) -> None:
        expected = static(llama, **generation)
        generator = only_refilled(make(llama, batch_size, **generation))
        for _ in range(2):
            assert generator.generate(PROMPTS, SEEDS) == expected

    def test_the_neighbours_and_the_order_do_not_change_a_sampled_answer(self, llama: Path) -> None:
        generator = make(llama, 3, **SAMPLED)
        expected = generator.generate(PROMPTS, SEEDS)
        assert len({response.text for response in expected}) == len(PROMPTS)
        assert generator.generate(PROMPTS[::-1], SEEDS[::-1]) == expected[::-1]
        assert generator.generate(PROMPTS[2:6], SEEDS[2:6]) == expected[2:6]

    def test_prompts_that_begin_alike_in_several_ways_are_told_apart(self, llama: Path) -> None:
        heads = [EXAMPLES, EXAMPLES.upper(), ""]
        prompts = [head + prompt for prompt in PROMPTS[:5] for head in heads]
        seeds = list(range(len(prompts)))
        expected = TransformersGenerator(spec(llama, "static"), CPU).generate(prompts, seeds)
        for rows in (4, "auto"):
            generator = only_refilled(make(llama, rows))
            read = tokens_read(generator)
            assert generator.generate(prompts, seeds) == expected
            assert sum(read) < 0.7 * sum(response.input_tokens for response in expected)

    def test_prompts_of_unlike_lengths_are_read_end_to_end_without_padding(self, llama: Path) -> None:
        prompts = [*(EXAMPLES + prompt for prompt in PROMPTS), "~" * 60]
        expected = TransformersGenerator(spec(llama, "static"), CPU).generate(prompts, range(len(prompts)))
        generator = only_refilled(make(llama))
        read = tokens_read(generator)
        assert generator.generate(prompts, range(len(prompts))) == expected
        rows = [generator._loaded.tokenizer(prompt)["input_ids"] for prompt in dict.fromkeys(prompts)]
        *alike, other = rows
        prefix = next(number for number, tokens in enumerate(zip(*alike, strict=False)) if len(set(tokens)) > 1)
        assert len({len(row) for row in alike}) >= 5
        # The prompt without the prefix, the prefix, and of each other prompt what is between it and the last token.
        assert read[:2] == [len(other) - 1, prefix]
        assert sum(read[2:]) == sum(len(row) - prefix - 1 for row in alike)
        assert len(read) - 2 < len(alike) / 1.5

    def test_samples_of_one_prompt_are_drawn_from_one_reading(self, llama: Path) -> None:
        prompts, seeds = ["hello", PROMPTS[1]] * 6, list(range(12))
        expected = TransformersGenerator(spec(llama, "static", **SAMPLED), CPU).generate(prompts, seeds)
        generator = only_refilled(make(llama, **SAMPLED))
        read = tokens_read(generator)
        assert generator.generate(prompts, seeds) == expected
        assert len({response.text for response in expected}) == 12
        assert sum(read) < sum(response.input_tokens for response in expected) / 3

    def test_a_prompt_of_one_token_and_one_that_is_all_prefix_but_one_are_answered(self, tmp_path: Path) -> None:
        folder = tiny_decoder(tmp_path)
        tiny_tokenizer(folder, special_tokens=False)
        prompts = ["a", "~" * 30, "~" * 30 + "a", "~" * 31, "~" * 29 + "b", "~" * 30 + "c"]
        expected = static(folder, prompts)
        assert expected[0].input_tokens == 1
        assert only_refilled(make(folder)).generate(prompts, SEEDS[:6]) == expected

    def test_a_prompt_that_fills_the_context_is_answered(self, llama: Path) -> None:
        prompts = ["a", "~" * (CONTEXT - NEW - 2), "b"]
        expected = static(llama, prompts)
        assert expected[1].input_tokens == CONTEXT - NEW
        assert only_refilled(make(llama)).generate(prompts, SEEDS[:3]) == expected

    def test_no_prompts_have_no_answers(self, llama: Path) -> None:
        assert make(llama).generate([], []) == []
        assert make(llama).generate(["~" * CONTEXT], [0])[0].error_type == "too_long"

    def test_half_precision_answers_too(self, llama: Path) -> None:
        settings = spec(llama, **SAMPLED).model_copy(update={"dtype": "bfloat16"})
        generator = only_refilled(TransformersGenerator(settings, CPU))
        found = generator.generate(PROMPTS, SEEDS)
        assert [response.error for response in found] == [None] * len(PROMPTS)
        assert generator.generate(PROMPTS, SEEDS) == found


class TestEnds:
    def test_rows_end_at_their_end_token_and_others_take_their_place(self, tmp_path: Path, llama: Path) -> None:
        tokens = alone(llama, PROMPTS[1:2])[0]
        folder = tiny_decoder(tmp_path, eos_token_id=[tokens[7], tokens[4]])
        expected = static(folder)
        assert {response.finish_reason for response in expected} == {"stop", "length"}
        for rows in (2, "auto"):
            assert only_refilled(make(folder, rows)).generate(PROMPTS, SEEDS) == expected

    @pytest.mark.parametrize("generation", [{}, SAMPLED], ids=["greedy", "sampled"])
    def test_rows_end_at_a_stop_string_while_their_neighbours_go_on(
        self, llama: Path, generation: dict[str, Any]
    ) -> None:
        stops = ["o", "e"]
        expected = static(llama, stop=stops, **generation)
        assert {response.finish_reason for response in expected} == {"stop", "length"}
        for rows in (2, "auto"):
            assert only_refilled(make(llama, rows, stop=stops, **generation)).generate(PROMPTS, SEEDS) == expected

    def test_a_row_that_has_ended_takes_no_part_in_the_next_step(self, tmp_path: Path, llama: Path) -> None:
        tokens = alone(llama, PROMPTS[1:2])[0]
        generator = make(tiny_decoder(tmp_path, eos_token_id=tokens[4]), 3)
        steps = rows_of_steps(generator)
        different = list(dict.fromkeys(PROMPTS))
        found = generator.generate(different, range(len(different)))
        assert sum(steps) == sum(response.output_tokens for response in found)
        assert max(steps) == 3


def watched(generator: Any, see: Callable[[torch.Tensor], None]) -> None:
    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(kwargs["input_ids"])

    generator._model.register_forward_pre_hook(hook, with_kwargs=True)


def tokens_read(generator: Any) -> list[int]:
    """The tokens of each call of the model, padding too, but for single ones: those are steps."""
    found: list[int] = []
    watched(generator, lambda ids: found.append(ids.numel()) if ids.shape[1] > 1 else None)
    return found


def rows_of_steps(generator: Any) -> list[int]:
    found: list[int] = []
    watched(generator, lambda ids: found.append(ids.shape[0]) if ids.shape[1] == 1 else None)
    return found


def fail_when(generator: Any, raises: Callable[[torch.Tensor], Exception | None]) -> None:
    """Make the model raise what `raises` says of the tokens that it is given."""

    def see(ids: torch.Tensor) -> None:
        error = raises(ids)
        if error is not None:
            raise error

    watched(generator, see)


class TestFailures:
    def test_a_row_that_fails_the_model_takes_no_other_with_it(self, llama: Path) -> None:
        poison = AutoTokenizer.from_pretrained(llama)("☃")["input_ids"][1]
        generator = make(llama, 3)
        expected = generator.generate(PROMPTS, SEEDS)
        fail_when(generator, lambda ids: ValueError("device-side assert\nand more") if poison in ids[:, :-1] else None)
        found = generator.generate(PROMPTS, SEEDS)
        assert (found[4].error_type, found[4].error) == ("model_error", "ValueError: device-side assert")
        assert [r for i, r in enumerate(found) if i != 4] == [r for i, r in enumerate(expected) if i != 4]
        assert generator.notes == []

    def test_an_error_of_a_step_leaves_its_rows_to_static_batches(self, llama: Path) -> None:
        generator = make(llama, 4, **SAMPLED)
        expected = generator.generate(PROMPTS, SEEDS)
        steps = rows_of_steps(generator)
        fail_when(generator, lambda ids: ValueError("once") if len(steps) == 5 and ids.shape[1] == 1 else None)
        assert generator.generate(PROMPTS, SEEDS) == expected
        assert generator.notes == []
        assert generator._model.config._attn_implementation == "sdpa"

    @pytest.mark.parametrize("reading", [False, True])
    def test_memory_that_runs_out_halves_the_rows_and_loses_none(self, llama: Path, reading: bool) -> None:
        generator = make(llama, 8, **SAMPLED)
        expected = static(llama, **SAMPLED)
        tried: list[int] = []
        # Prompts are read end to end: as many tokens as the longest one has are never too many.
        most = max(row.input_tokens for row in expected) if reading else 2

        def too_many(ids: torch.Tensor) -> Exception | None:
            if (ids.shape[1] > 1) is not reading:
                return None
            tried.append(ids.numel())
            return MemoryError() if ids.numel() > most else None

        only_refilled(generator)
        fail_when(generator, too_many)
        assert generator.generate(PROMPTS, SEEDS) == expected
        assert tried[0] > max(tried[-5:])
        before = len(tried)
        assert generator.generate(PROMPTS, SEEDS) == expected
        assert max(tried[before:]) <= most

    def test_a_row_that_never_fits_in_memory_is_told(self, llama: Path) -> None:
        generator = make(llama, 4)
        expected = generator.generate(PROMPTS, SEEDS)
        longest = max(response.input_tokens for response in expected)
        fail_when(generator, lambda ids: MemoryError() if ids.shape[1] >= longest - 1 else None)
        found = generator.generate(PROMPTS, SEEDS)
        assert [response.error_type for response in found] == [
            "out_of_memory" if response.input_tokens == longest else None for response in expected
        ]

    def test_a_model_that_always_fails_goes_on_in_static_batches_and_says_so_once(
        self, llama: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generator = make(llama, 2)
        expected = generator.generate(PROMPTS, SEEDS)

        def broken(running: Running) -> None:
            raise TypeError("attend() got an unexpected keyword\nand more")

        monkeypatch.setattr(Running, "step", broken)
        for _ in range(2):
            assert generator.generate(PROMPTS, SEEDS) == expected
        assert generator.notes == [
            f"the model '{llama}' goes on in static batches: refilled ones ended with "
            "TypeError: attend() got an unexpected keyword"
        ]

    def test_errors_of_all_rows_end_it_too(self, llama: Path) -> None:
        generator = make(llama)
        fail_when(generator, lambda ids: ValueError("no such kernel"))
        found = generator.generate(PROMPTS, SEEDS)
        assert {response.error for response in found} == {"ValueError: no such kernel"}
        assert len(generator.notes) == 1

    def test_a_signal_to_end_is_no_error_of_a_row(self, llama: Path) -> None:
        class Ended(BaseException):
            pass

        generator = make(llama)

        def ended(ids: torch.Tensor) -> None:
            if ids.shape[1] == 1:
                raise Ended

        watched(generator, ended)
        with pytest.raises(Ended):
            generator.generate(PROMPTS, SEEDS)
        assert generator._model.config._attn_implementation == "sdpa"


class TestSizes:
    def test_more_slots_are_taken_once_the_longest_rows_have_left(self, llama: Path) -> None:
        # Memory for one row of the longest prompt's length.
        token = 2 * 2 * 8 * 2 * 4
        prompts = ["~" * 70, *(f"{prompt}{copy}" for copy in range(3) for prompt in dict.fromkeys(PROMPTS))]
        seeds = list(range(len(prompts)))
        expected = TransformersGenerator(spec(llama, "static"), CPU).generate(prompts, seeds)
        generator = only_refilled(make(llama))
        generator._refilled._sizes = _RowsBySlots(token, NEW, least=1, memory=token * (80 + NEW))
        steps = rows_of_steps(generator)
        assert generator.generate(prompts, seeds) == expected
        assert steps[0] <= 2
        assert max(steps) >= 4, steps

    @pytest.mark.parametrize(
        ("columns", "fit"),
        [
            # 10 tokens to write, and memory for 1,000.
            ([90] * 20, 10),
            ([240] + [65] * 30, 11),
            # No more than four times the memory as address space, and no fewer rows than static batches have.
            ([490] + [0] * 80, 8),
            ([1990] * 20, 2),
            ([0] * 100, 100),
        ],
    )
    def test_a_few_long_rows_leave_room_for_many_short_ones(self, columns: list[int], fit: int) -> None:
        sizes = _RowsBySlots(token_bytes=7, new=10, least=2, memory=7 * 1000)
        assert sizes.of(columns) == fit

    def test_the_rows_of_a_cpu_do_not_depend_on_its_free_memory(self, llama: Path) -> None:
        generator = make(llama)
        steps = rows_of_steps(generator)
        generator.generate(["hello", *map(str, range(199))], [0] * 200)
        assert max(steps) == 64
        assert generator.rows_at_a_time == 256


class TestChoice:
    def test_auto_on_a_cpu_refills_and_static_does_not(self, llama: Path) -> None:
        assert isinstance(make(llama)._refilled, RefilledBatches)
        assert TransformersGenerator(spec(llama, "static"), CPU)._refilled is None
        assert TransformersGenerator(spec(llama, "continuous"), CPU)._refilled is None

    @pytest.mark.parametrize("architecture", ["t5", "bart"])
    def test_an_encoder_decoder_cannot(self, tmp_path: Path, architecture: str) -> None:
        settings = spec(tiny_encoder_decoder(tmp_path, architecture))
        assert not can_refill(load(settings, CPU))
        assert TransformersGenerator(settings, CPU).generate(["hello"], [0])[0].error is None

    def test_a_model_with_attention_code_of_its_own_cannot(self, tmp_path: Path) -> None:
        from transformers import BloomConfig, BloomForCausalLM

        tokenizer = tiny_tokenizer(tmp_path)
        BloomForCausalLM(
            BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=4, pad_token_id=0)
        ).save_pretrained(tmp_path)
        settings = spec(tmp_path)
        assert not can_refill(load(settings, CPU))
        assert TransformersGenerator(settings, CPU).generate(["hello"], [0])[0].error is None

    def test_a_model_with_a_state_cannot(self, tmp_path: Path) -> None:
        from transformers import MambaConfig, MambaForCausalLM

        tokenizer = tiny_tokenizer(tmp_path)
        MambaForCausalLM(
            MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, pad_token_id=0)
        ).save_pretrained(tmp_path)
        assert not can_refill(load(spec(tmp_path), CPU))


def test_closing_frees_the_model(llama: Path) -> None:
    generator = make(llama)
    generator.generate(PROMPTS[:2], SEEDS[:2])
    model = weakref.ref(generator._model)
    generator.close()
    gc.collect()
    assert model() is None


def test_rows_that_were_moved_and_rows_that_joined_keep_what_they_read(llama: Path) -> None:
    """By hand: the first of three rows leaves, the last one takes its slot, and a new one the last slot."""
    settings = spec(llama)
    loaded = load(settings, CPU)
    requests = [Request(n, loaded.tokenizer(prompt)["input_ids"], n) for n, prompt in enumerate(PROMPTS[:4])]
    expected = alone(llama, PROMPTS[:4])
    running = Running(loaded, Writer(loaded, settings.generation), settings.generation, 3, 64)
    rows = [Row(request) for request in requests]
    with torch.inference_mode():
        for row in rows[:3]:
            running.prefill([row])
        for _ in range(4):
            assert running.step() == []
        running._part({rows[0]})
        assert running.rows == [rows[2], rows[1]]
        running.resize(4, 80)
        running.prefill([rows[3]])
        for _ in range(7):
            assert running.step() == []
    assert [row.written for row in running.rows] == [expected[2][:11], expected[1][:11], expected[3][:7]]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_samples_of_a_prompt_are_computed_once_until_they_part(
    folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five samples of each prompt, all at once: the texts and signals of each alone, for fewer computed rows."""
    prompts = [prompt for prompt in PROMPTS[:4] for _ in range(5)]
    given = spec(folders[name], temperature=0.7, stop=["e"])
    given = given.model_copy(update={"confidence": Confidence()})
    alone_generator = TransformersGenerator(given, CPU)
    expected = [alone_generator.generate([prompt], [seed])[0] for seed, prompt in enumerate(prompts)]
    branches: list[tuple[int, int]] = []
    step = Running.step

    def counted(running: Running) -> list[tuple[Row, int | None]]:
        branches.append((len(running.branches), len(running.rows)))
        return step(running)

    monkeypatch.setattr(Running, "step", counted)
    found = TransformersGenerator(given, CPU).generate(prompts, range(len(prompts)))
    assert [one.text for one in found] == [one.text for one in expected]
    assert [one.output_tokens for one in found] == [one.output_tokens for one in expected]
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in expected], abs=1e-4)
    assert branches[0] == (4, 20)
    assert sum(computed for computed, _ in branches) < sum(rows for _, rows in branches)


def test_equal_greedy_prompts_stay_one_branch(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    branches: list[int] = []
    step = Running.step

    def counted(running: Running) -> list[tuple[Row, int | None]]:
        branches.append(len(running.branches))
        return step(running)

    expected = make(llama).generate([PROMPTS[1]], [0])
    monkeypatch.setattr(Running, "step", counted)
    responses = make(llama).generate([PROMPTS[1]] * 7, range(7))
    assert responses == expected * 7
    assert set(branches) == {1}


def test_parts_of_a_branch_and_later_rows_fill_the_first_slots(llama: Path) -> None:
    """By hand: of two branches the first ends, and the second parts in three."""
    settings = spec(llama, temperature=1.0)
    loaded = load(settings, CPU)
    tokens = [loaded.tokenizer(prompt)["input_ids"] for prompt in PROMPTS[:2]]
    running = Running(loaded, Writer(loaded, settings.generation), settings.generation, 8, 64)
    rows = [Row(Request(number, tokens[number > 1], number)) for number in range(6)]
    running.prefill(rows[:2])
    running.prefill(rows[2:])
    assert running.branches == [rows[:2], rows[2:]]
    for row, token in zip(rows, (5, 5, 6, 7, 6, 8), strict=True):
        row.written.append(token)
    keys = [layer.keys[1].clone() for layer in running._slots.layers]
    with torch.inference_mode():
        running._part({rows[0], rows[1]})
    assert sorted([row.request.index for row in branch] for branch in running.branches) == [[2, 4], [3], [5]]
    columns = len(tokens[1]) - 1
    for layer, known in zip(running._slots.layers, keys, strict=True):
        for slot in range(3):
            assert torch.equal(layer.keys[slot, :, :columns], known[:, :columns])
