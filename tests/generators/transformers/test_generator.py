from __future__ import annotations

import dataclasses
import functools
import gc
import shutil
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.settings import ModelSpec, Sampling
from batchroute.generators.transformers import loading
from batchroute.generators.transformers.generator import TransformersGenerator, _rows_at_a_time
from batchroute.generators.transformers.memory import FixedRows, RowsByMemory, footprint, row_bytes
from batchroute.generators.transformers.static import sizes
from batchroute.prompt import Prompt
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
    "[CLS] not special [SEP]",
    "hello",
    "Translate the sentence into French",
]
SEEDS = list(range(100, 100 + len(PROMPTS)))
SAMPLED = {"temperature": 1.3, "top_k": 50, "top_p": 0.95}
KINDS = ["decoder", "chat", "t5", "bart"]


def make(kind: str, folder: Path) -> Path:
    if kind in ("decoder", "chat"):
        return tiny_decoder(folder, chat=kind == "chat")
    return tiny_encoder_decoder(folder, kind)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture
def decoder(folders: dict[str, Path]) -> Path:
    return folders["decoder"]


def load(folder: Path, batch_size: int = 16, batching: str = "static", **generation: Any) -> TransformersGenerator:
    """With static batches, where encoder-decoders have nothing else; what differs in others is in their own tests."""
    settings = {"backend": "transformers", "model": str(folder), "batch_size": batch_size, "batching": batching}
    spec = ModelSpec.model_validate({**settings, "generation": {"max_new_tokens": NEW, **generation}})
    return TransformersGenerator(spec, CPU)


def answers(
    folder: Path, prompts: Sequence[Prompt] = PROMPTS, batch_size: int = 16, **generation: Any
) -> list[Response]:
    return load(folder, batch_size, **generation).generate(prompts, SEEDS[: len(prompts)])


@functools.cache
def plain(folder: Path) -> list[tuple[list[int], list[int]]]:
    """The tokens read and written when transformers is asked for one prompt after another, with no batch and no pad."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder_decoder = AutoConfig.from_pretrained(folder).is_encoder_decoder
    family = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    model = family.from_pretrained(folder).eval()
    found = []
    for prompt in PROMPTS:
        if tokenizer.chat_template is None:
            ids = tokenizer(prompt)["input_ids"]
        else:
            chat = [{"role": "user", "content": prompt}]
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        inputs = torch.tensor([ids])
        with torch.inference_mode():
            sequence = model.generate(
                input_ids=inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=NEW
            )[0]
        found.append((ids, sequence[1 if encoder_decoder else len(ids) :].tolist()))
    return found


@functools.cache
def tokenizer_of(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def decode(folder: Path, tokens: list[int]) -> str:
    return str(tokenizer_of(folder).decode(tokens, skip_special_tokens=True))


class TestGreedy:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_batch_answers_as_the_model_does_one_by_one(self, folders: dict[str, Path], kind: str) -> None:
        expected = [
            Response(decode(folders[kind], written), "length", len(read), len(written))
            for read, written in plain(folders[kind])
        ]
        assert answers(folders[kind]) == expected
        assert len({response.text for response in expected}) >= 3

    @pytest.mark.parametrize("batch_size", [1, 3])
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("generation", [{}, SAMPLED], ids=["greedy", "sampled"])
    def test_the_batch_does_not_change_the_answers(
        self, folders: dict[str, Path], kind: str, generation: dict[str, Any], batch_size: int
    ) -> None:
        expected = answers(folders[kind], **generation)
        assert answers(folders[kind], batch_size=batch_size, **generation) == expected

    @pytest.mark.parametrize("generation", [{}, SAMPLED], ids=["greedy", "sampled"])
    def test_the_neighbours_and_the_order_do_not_change_the_answers(
        self, decoder: Path, generation: dict[str, Any]
    ) -> None:
        generator = load(decoder, 3, **generation)
        expected = generator.generate(PROMPTS, SEEDS)
        assert generator.generate(PROMPTS[::-1], SEEDS[::-1]) == expected[::-1]
        assert generator.generate(PROMPTS[2:5], SEEDS[2:5]) == expected[2:5]
        assert generator.generate([PROMPTS[4]], [SEEDS[4]]) == expected[4:5]

    def test_a_prompt_that_spells_special_tokens_is_padded_with_none(self, decoder: Path) -> None:
        generator = load(decoder)
        alone = [generator.generate([prompt], [0])[0] for prompt in ("[PAD]", "[PAD][PAD] a [EOS] b", PROMPTS[1])]
        assert generator.generate(["[PAD]", "[PAD][PAD] a [EOS] b", PROMPTS[1]], [0, 0, 0]) == alone

    def test_what_the_models_own_settings_ask_for_is_not_done(self, tmp_path: Path, decoder: Path) -> None:
        own = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 5, "suppress_tokens": [7, 8, 9]}
        sampling = {"do_sample": True, "temperature": 0.1, "top_k": 2, "top_p": 0.1}
        folder = tiny_decoder(tmp_path, **own, **sampling)
        assert answers(folder) == answers(decoder)
        assert answers(folder, **SAMPLED) == answers(decoder, **SAMPLED)

    def test_no_prompts_have_no_answers(self, decoder: Path) -> None:
        assert load(decoder).generate([], []) == []


class TestSampling:
    def test_a_seed_gives_the_same_answer_again_and_another_seed_another(self, decoder: Path) -> None:
        generator = load(decoder, **SAMPLED)
        first = generator.generate(["hello"] * 8, range(8))
        assert generator.generate(["hello"] * 8, range(8)) == first
        assert load(decoder, **SAMPLED).generate(["hello"] * 8, range(8)) == first
        assert len({response.text for response in first}) == 8

    def test_sampling_does_not_depend_on_the_global_seed_and_leaves_it_alone(self, decoder: Path) -> None:
        generator = load(decoder, **SAMPLED)
        torch.manual_seed(1)
        first = generator.generate(PROMPTS, SEEDS)
        after = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(1), after)
        assert generator.generate(PROMPTS, SEEDS) == first

    def test_only_the_likeliest_token_is_greedy(self, decoder: Path) -> None:
        assert answers(decoder, temperature=2.0, top_k=1) == answers(decoder)


def ending_model(source: Path, folder: Path, token: int) -> Path:
    """A copy of a model that writes its end-of-sequence token wherever the original writes `token`."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(source)
    end = model.config.eos_token_id
    with torch.no_grad():
        model.lm_head.weight[[token, end]] = model.lm_head.weight[[end, token]]
    model.save_pretrained(folder)
    return folder


class TestEnds:
    def test_a_row_ends_at_its_end_token_which_is_counted_and_not_in_the_text(
        self, tmp_path: Path, decoder: Path
    ) -> None:
        written = [tokens for _, tokens in plain(decoder)]
        token = written[1][7]
        folder = ending_model(decoder, tmp_path / "m", token)
        found = answers(folder)
        lengths = [tokens.index(token) + 1 if token in tokens else NEW for tokens in written]
        assert lengths[1] < NEW
        assert max(lengths) == NEW
        for response, tokens, length in zip(found, written, lengths, strict=True):
            ended = token in tokens
            assert response.finish_reason == ("stop" if ended else "length")
            assert response.output_tokens == length
            assert response.text == decode(decoder, tokens[: length - 1] if ended else tokens)

    def test_the_end_tokens_are_those_of_the_model_even_if_they_are_many(self, tmp_path: Path, decoder: Path) -> None:
        written = [tokens for _, tokens in plain(decoder)]
        ends = [written[0][3], written[1][5]]
        found = answers(tiny_decoder(tmp_path, eos_token_id=ends))
        for response, tokens in zip(found, written, strict=True):
            length = next((n for n, token in enumerate(tokens, 1) if token in ends), None)
            assert response.output_tokens == (length or NEW)
            assert response.finish_reason == ("stop" if length else "length")

    def test_an_end_token_that_is_an_ordinary_one_is_not_in_the_text_either(
        self, tmp_path: Path, decoder: Path
    ) -> None:
        tokens = plain(decoder)[1][1]
        length = tokens.index(tokens[7]) + 1
        found = answers(tiny_decoder(tmp_path, eos_token_id=tokens[7]))[1]
        assert (found.output_tokens, found.text) == (length, decode(decoder, tokens[: length - 1]))

    def test_a_stop_that_is_a_special_token_ends_the_row(self, tmp_path: Path, decoder: Path) -> None:
        tokens = plain(decoder)[1][1]
        length = tokens.index(tokens[7]) + 1
        shutil.copytree(decoder, tmp_path / "m")
        tokenizer = AutoTokenizer.from_pretrained(decoder)
        name = tokenizer.convert_ids_to_tokens(tokens[7])
        tokenizer.add_special_tokens({"additional_special_tokens": [name]})
        tokenizer.save_pretrained(tmp_path / "m")
        found = answers(tmp_path / "m", stop=[name])[1]
        assert (found.output_tokens, found.finish_reason) == (length, "stop")

    def test_an_end_at_the_limit_is_an_end(self, decoder: Path, tmp_path: Path) -> None:
        (_, tokens) = plain(decoder)[0]
        at = next(n for n in range(4, NEW) if tokens[n] not in tokens[:n])
        folder = ending_model(decoder, tmp_path / "m", tokens[at])
        exactly, shorter = (answers(folder, PROMPTS[:1], max_new_tokens=limit)[0] for limit in (at + 1, at))
        assert (exactly.finish_reason, exactly.output_tokens) == ("stop", at + 1)
        assert (shorter.finish_reason, shorter.output_tokens) == ("length", at)
        assert exactly.text == shorter.text

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("across", [1, 2, 3])
    def test_a_stop_string_ends_its_row_and_is_not_part_of_the_text(
        self, folders: dict[str, Path], kind: str, across: int
    ) -> None:
        folder = folders[kind]
        written = [tokens for _, tokens in plain(folder)]
        stop = ascii_text(folder, written, across)
        found = answers(folder, stop=[stop])
        stopped = 0
        for response, tokens in zip(found, written, strict=True):
            lengths = [n for n in range(1, NEW + 1) if stop in decode(folder, tokens[:n])]
            text = decode(folder, tokens)
            assert response.output_tokens == (lengths[0] if lengths else NEW)
            assert response.finish_reason == ("stop" if lengths else "length")
            assert response.text == text.partition(stop)[0]
            stopped += bool(lengths)
        assert stopped

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_stop_strings_do_not_depend_on_the_batch(self, decoder: Path, batch_size: int) -> None:
        stops = [ascii_text(decoder, [tokens], 1) for _, tokens in plain(decoder)[:3]]
        expected = answers(decoder, stop=stops)
        assert {response.finish_reason for response in expected} == {"stop", "length"}
        assert answers(decoder, batch_size=batch_size, stop=stops) == expected

    def test_a_stop_string_of_the_prompt_does_not_end_the_answer(self, decoder: Path) -> None:
        assert answers(decoder, [PROMPTS[3]], stop=["quick brown"])[0].finish_reason == "length"


def ascii_text(folder: Path, written: list[list[int]], tokens_across: int) -> str:
    """A text that some row writes with so many tokens, not at its beginning."""
    for tokens in written:
        for start in range(2, NEW - tokens_across):
            text = decode(folder, tokens[start : start + tokens_across])
            if text.isascii() and text.strip() and len(text) >= tokens_across:
                return text
    raise AssertionError("no such text")


class TestBadPrompts:
    def test_a_prompt_that_does_not_fit_is_told_and_its_neighbours_are_answered(self, decoder: Path) -> None:
        fits = prompt_of(decoder, CONTEXT - NEW)
        too_long = prompt_of(decoder, CONTEXT - NEW + 1)
        found = answers(decoder, ["hello", too_long, fits])
        assert found[0] == answers(decoder, ["hello"])[0]
        assert found[1] == Response(
            input_tokens=CONTEXT - NEW + 1,
            error_type="too_long",
            error=f"{CONTEXT - NEW + 1} prompt tokens + {NEW} new ones do not fit the model's context of {CONTEXT}",
        )
        assert found[2].error_type is None
        assert (found[2].input_tokens, found[2].output_tokens) == (CONTEXT - NEW, NEW)

    def test_an_encoder_has_its_context_for_the_prompt_alone(self, folders: dict[str, Path]) -> None:
        bart = folders["bart"]
        fits, too_long = answers(bart, [prompt_of(bart, CONTEXT), prompt_of(bart, CONTEXT + 1)])
        assert fits.error_type is None
        assert too_long.error == f"97 prompt tokens do not fit the model's context of {CONTEXT}"

    def test_relative_positions_have_no_limit(self, folders: dict[str, Path]) -> None:
        (found,) = answers(folders["t5"], [prompt_of(folders["t5"], 3 * CONTEXT)])
        assert (found.error_type, found.input_tokens) == (None, 3 * CONTEXT)

    def test_a_chat_that_the_template_refuses_is_told(self, folders: dict[str, Path]) -> None:
        chats: list[Prompt] = [[{"role": "tool", "content": "x"}], "hello"]
        found = answers(folders["chat"], chats)
        assert found[0] == Response(error_type="bad_chat", error="the chat template refused it: unknown role: tool")
        assert found[1] == answers(folders["chat"], ["hello"])[0]

    def test_a_prompt_of_no_tokens_is_told(self, tmp_path: Path) -> None:
        folder = tiny_decoder(tmp_path)
        tiny_tokenizer(folder, special_tokens=False)
        found = answers(folder, ["", "hello"])
        assert found[0] == Response(error_type="empty_prompt", error="the prompt has no tokens")
        assert found[1].error_type is None


def prompt_of(folder: Path, tokens: int) -> str:
    """A prompt of exactly so many tokens, special ones included."""
    prompt = "~" * (tokens - 2)
    assert len(tokenizer_of(folder)(prompt)["input_ids"]) == tokens
    return prompt


def fail_when(generator: TransformersGenerator, raises: Callable[[torch.Tensor], Exception | None]) -> list[int]:
    """Make the model raise what `raises` says of the tokens it is given; returns the batch sizes tried so far."""
    tried: list[int] = []

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"]
        if ids.shape[1] > 1:
            tried.append(ids.shape[0])
        error = raises(ids)
        if error is not None:
            raise error

    generator._model.register_forward_pre_hook(hook, with_kwargs=True)
    return tried


class TestFailures:
    @pytest.mark.parametrize("batch_size", [1, 3, 16])
    def test_a_row_that_fails_the_model_takes_no_other_with_it(self, decoder: Path, batch_size: int) -> None:
        poison = tokenizer_of(decoder)("☃")["input_ids"][1]
        generator = load(decoder, batch_size, max_new_tokens=8)
        expected = generator.generate(PROMPTS, SEEDS)
        fail_when(
            generator,
            lambda ids: ValueError("device-side assert\nwith a long trace") if poison in ids[:, :-1] else None,
        )
        found = generator.generate(PROMPTS, SEEDS)
        assert found[4] == Response(
            input_tokens=expected[4].input_tokens,
            error_type="model_error",
            error="ValueError: device-side assert",
        )
        assert [r for i, r in enumerate(found) if i != 4] == [r for i, r in enumerate(expected) if i != 4]

    @pytest.mark.parametrize(
        "fail",
        [
            lambda: MemoryError(),
            lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            lambda: _real_allocation_error(),
        ],
        ids=["MemoryError", "CUDA", "CPU"],
    )
    def test_out_of_memory_halves_the_batch_for_good(self, decoder: Path, fail: Callable[[], Exception]) -> None:
        generator = load(decoder, 8, **SAMPLED)
        expected = generator.generate(PROMPTS, SEEDS)
        tried = fail_when(generator, lambda ids: fail() if ids.shape[0] > 2 else None)
        assert generator.generate(PROMPTS, SEEDS) == expected
        assert tried == [8, 4, 2, 2, 2, 2]
        assert generator.generate(PROMPTS, SEEDS) == expected
        assert tried[6:] == [2, 2, 2, 2]

    def test_a_batch_is_what_the_free_memory_has_room_for_and_learns_from_what_has_not(self, decoder: Path) -> None:
        generator = load(decoder)
        expected = generator.generate(PROMPTS, SEEDS)
        lengths = sorted((response.input_tokens for response in expected), reverse=True)
        row = footprint(generator._model.config, 4)
        # Room for two of the longest rows, and for more of the short ones.
        free = int(2.5 * row_bytes(row, lengths[0], NEW) / 0.8)
        generator._static._sizes = RowsByMemory(row, NEW, lambda: free)
        tried = fail_when(generator, lambda ids: None)
        assert generator.generate(PROMPTS, SEEDS) == expected
        assert (tried[0], sum(tried)) == (2, len(PROMPTS))
        assert max(tried) > 2
        generator._static._sizes = RowsByMemory(row, NEW, lambda: 100 * free)
        tried = fail_when(generator, lambda ids: MemoryError() if ids.shape[0] > 3 else None)
        assert generator.generate(PROMPTS, SEEDS) == expected
        assert tried[0] == len(PROMPTS)
        assert max(tried[2:]) <= 3

    def test_a_row_that_never_fits_in_memory_is_told(self, decoder: Path) -> None:
        generator = load(decoder, 4, max_new_tokens=4)
        expected = generator.generate(PROMPTS, SEEDS)
        longest = max(response.input_tokens for response in expected)
        fail_when(generator, lambda ids: MemoryError() if ids.shape[1] == longest else None)
        found = generator.generate(PROMPTS, SEEDS)
        assert 1 <= [response.error_type for response in found].count("out_of_memory") <= 2
        for response, good in zip(found, expected, strict=True):
            if good.input_tokens == longest:
                assert response.error == "MemoryError: MemoryError"
                assert response.input_tokens == longest
            else:
                assert response == good

    def test_a_signal_to_end_is_no_error_of_a_row(self, decoder: Path) -> None:
        class Ended(BaseException):
            pass

        generator = load(decoder)

        def hook(*_: Any) -> None:
            raise Ended

        generator._model.register_forward_pre_hook(hook)
        with pytest.raises(Ended):
            generator.generate(PROMPTS, SEEDS)


def _real_allocation_error() -> Exception:
    try:
        torch.empty(1 << 50, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("this machine has a petabyte")


class TestSizes:
    @pytest.mark.parametrize(
        ("device", "batch_size", "kind", "at_a_time"),
        [
            ("cpu", "auto", FixedRows, 64),
            ("cuda", "auto", RowsByMemory, 1024),
            ("cpu", 32, FixedRows, 128),
            ("cuda", 32, FixedRows, 128),
        ],
    )
    def test_batches_on_a_gpu_are_sized_by_its_memory_unless_their_size_is_given(
        self, decoder: Path, device: str, batch_size: int | str, kind: type, at_a_time: int
    ) -> None:
        settings = {"backend": "transformers", "model": str(decoder), "batch_size": batch_size}
        spec = ModelSpec.model_validate({**settings, "generation": {"max_new_tokens": 4}})
        loaded = dataclasses.replace(loading.load(spec, CPU), device=torch.device(device))
        assert type(sizes(loaded, spec)) is kind
        assert _rows_at_a_time(loaded, spec, continuous=False) == at_a_time

    @pytest.mark.parametrize(("device", "at_a_time"), [("cpu", 256), ("cuda", 1024)])
    @pytest.mark.parametrize("batch_size", ["auto", 8])
    def test_refilled_batches_take_many_rows_at_a_time(
        self, decoder: Path, device: str, batch_size: int | str, at_a_time: int
    ) -> None:
        spec = ModelSpec.model_validate({"backend": "transformers", "model": str(decoder), "batch_size": batch_size})
        loaded = dataclasses.replace(loading.load(spec, CPU), device=torch.device(device))
        assert _rows_at_a_time(loaded, spec, continuous=False, refill=True) == at_a_time

    def test_on_cpu_sixteen_rows_make_a_batch(self, decoder: Path) -> None:
        spec = ModelSpec(
            backend="transformers", model=str(decoder), batching="static", generation=Sampling(max_new_tokens=4)
        )
        generator = TransformersGenerator(spec, CPU)
        tried = fail_when(generator, lambda ids: None)
        generator.generate(PROMPTS * 5, SEEDS * 5)
        assert tried == [16, 16, 8]


class TestLoading:
    def test_closing_frees_the_model(self, decoder: Path) -> None:
        generator = load(decoder)
        generator.generate(PROMPTS[:2], SEEDS[:2])
        model = weakref.ref(generator._model)
        weights = weakref.ref(generator._model.get_input_embeddings().weight)
        generator.close()
        gc.collect()
        assert model() is None
        assert weights() is None

    def test_loading_takes_time_that_is_told(self, decoder: Path) -> None:
        assert load(decoder).load_seconds > 0

    @pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
    def test_the_precision_is_the_one_asked_for(self, decoder: Path, dtype: str, expected: torch.dtype) -> None:
        spec = ModelSpec.model_validate(
            {"backend": "transformers", "model": str(decoder), "dtype": dtype, "generation": {"max_new_tokens": 4}}
        )
        assert TransformersGenerator(spec, CPU)._model.dtype == expected

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("config.json", b"{"),
            ("config.json", b'{"model_type": "no such type"}'),
            ("model.safetensors", None),
            ("model.safetensors", b"not safetensors"),
            ("tokenizer.json", b"{}"),
            ("tokenizer.json", b"not json"),
        ],
    )
    def test_a_damaged_model_is_a_sentence(
        self, decoder: Path, tmp_path: Path, file: str, content: bytes | None
    ) -> None:
        shutil.copytree(decoder, tmp_path, dirs_exist_ok=True)
        (tmp_path / file).unlink()
        if content is not None:
            (tmp_path / file).write_bytes(content)
        with pytest.raises(InputError, match=f"cannot load the model '{tmp_path}': ") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("renamed", "modules", "kind"),
        [
            ("transformers.cache_utils.CacheLayerMixin", ("refill", "running", "prefill", "slots"), "refilled"),
            ("transformers.cache_utils.DynamicLayer", ("refill", "running", "prefill", "slots"), "refilled"),
            ("transformers.utils.import_utils.is_flash_attn_3_available", (), "continuous"),
        ],
    )
    def test_a_name_that_transformers_renamed_costs_the_fast_batches_alone(
        self, decoder: Path, monkeypatch: pytest.MonkeyPatch, renamed: str, modules: Sequence[str], kind: str
    ) -> None:
        expected = answers(decoder)
        with monkeypatch.context() as patch:
            for module in modules:
                patch.delitem(sys.modules, f"batchroute.generators.transformers.{module}", raising=False)
            patch.delattr(renamed)
            static, auto = load(decoder), load(decoder, batching="auto")
        assert static.notes == []
        assert len(auto.notes) == 1
        assert f"{kind} batches do not work with this version of transformers" in auto.notes[0]
        assert static.generate(PROMPTS, SEEDS) == auto.generate(PROMPTS, SEEDS) == expected

    def test_continuous_batches_that_the_job_file_asks_for_are_not_replaced(
        self, decoder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "batchroute.generators.transformers.continuous", None)
        with pytest.raises(InputError, match="continuous batches do not work with this version of transformers"):
            load(decoder, batching="continuous")

    @pytest.mark.parametrize("kind", ["decoder", "bart"])
    def test_more_new_tokens_than_the_context_are_refused(self, folders: dict[str, Path], kind: str) -> None:
        with pytest.raises(InputError, match=r"generation\.max_new_tokens is 5,000, but the model .* has a context of"):
            load(folders[kind], max_new_tokens=5000)

    def test_a_classifier_or_an_encoder_is_no_generator(self, tmp_path: Path) -> None:
        from tests.support.tiny_models import tiny_router

        folder = tiny_router(tmp_path, "deberta")
        with pytest.raises(InputError, match="is no generator of text: its configuration says DebertaV2"):
            load(folder)

    def test_a_hub_id_without_a_hub_is_a_sentence(self) -> None:
        with pytest.raises(InputError, match="cannot load the model 'nobody/no-such-model': ") as caught:
            load(Path("nobody/no-such-model"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batching", ["static", "auto"])
def test_the_end_of_the_run_is_no_error_of_a_row(decoder: Path, batching: str) -> None:
    """Where another rank dies, a signal's handler raises in the middle of a batch."""
    generator = load(decoder, batching=batching)

    def end(*_: object) -> None:
        raise StoppedError("rank 1 of 2 died")

    generator._model.register_forward_pre_hook(end)
    with pytest.raises(StoppedError, match="rank 1 of 2 died"):
        generator.generate(PROMPTS, SEEDS)
