from __future__ import annotations

import dataclasses
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

from batchroute.errors import InputError
from batchroute.generators.base import Response
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.continuous import pays, why_not
from batchroute.generators.transformers.generator import TransformersGenerator
from batchroute.generators.transformers.loading import Loaded, load
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
] * 3
SEEDS = [0] * len(PROMPTS)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("decoder"))


def spec(folder: Path, batching: str = "continuous", batch_size: int | str = "auto", **generation: Any) -> ModelSpec:
    settings = {"backend": "transformers", "model": str(folder), "batching": batching, "batch_size": batch_size}
    return ModelSpec.model_validate({**settings, "generation": {"max_new_tokens": NEW, **generation}})


def make(folder: Path, batching: str = "continuous", batch_size: int | str = "auto", **generation: Any) -> Any:
    return TransformersGenerator(spec(folder, batching, batch_size, **generation), CPU)


def static(folder: Path, **generation: Any) -> list[Response]:
    found: list[Response] = make(folder, "static", **generation).generate(PROMPTS, SEEDS)
    return found


def other_decoder(folder: Path, kind: str) -> Path:
    tokenizer = tiny_tokenizer(folder)
    ids: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "gpt2":
            sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
            model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ids))
        else:
            shape: dict[str, Any] = {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
            }
            model = MistralForCausalLM(
                MistralConfig(
                    vocab_size=len(tokenizer), num_key_value_heads=2, sliding_window=8, max_position_embeddings=CONTEXT,
                    **shape, **ids,
                )
            )  # fmt: skip
        for weights in model.parameters():
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.4)
    model.save_pretrained(folder)
    return folder


class TestAnswers:
    @pytest.mark.parametrize("batch_size", ["auto", 1, 3])
    def test_they_are_those_of_static_batches(self, decoder: Path, batch_size: int | str) -> None:
        generator = make(decoder, batch_size=batch_size)
        expected = static(decoder)
        assert len({response.text for response in expected}) >= 5
        for _ in range(2):
            assert generator.generate(PROMPTS, SEEDS) == expected
        assert generator.notes == []

    @pytest.mark.parametrize("kind", ["gpt2", "mistral"])
    def test_other_architectures_answer_alike_too(self, tmp_path: Path, kind: str) -> None:
        folder = other_decoder(tmp_path, kind)
        generator = make(folder)
        assert generator.generate(PROMPTS, SEEDS) == static(folder)
        assert generator.notes == []

    def test_a_chat_is_templated(self, tmp_path: Path) -> None:
        folder = tiny_decoder(tmp_path, chat=True)
        assert make(folder).generate(PROMPTS, SEEDS) == static(folder)

    def test_rows_end_at_their_end_token(self, tmp_path: Path, decoder: Path) -> None:
        tokens = written(decoder, PROMPTS[1])
        folder = tiny_decoder(tmp_path, eos_token_id=[tokens[7], tokens[4]])
        expected = static(folder)
        assert {response.finish_reason for response in expected} == {"stop", "length"}
        assert make(folder).generate(PROMPTS, SEEDS) == expected

    @pytest.mark.parametrize("across", [1, 2, 3])
    def test_rows_end_at_a_stop_string_while_their_neighbours_go_on(self, decoder: Path, across: int) -> None:
        stop = ascii_text(decoder, across)
        expected = static(decoder, stop=[stop])
        assert {response.finish_reason for response in expected} == {"stop", "length"}
        generator = make(decoder, stop=[stop])
        for _ in range(2):
            assert generator.generate(PROMPTS, SEEDS) == expected
        assert generator.notes == []

    def test_a_longer_prompt_later_on_has_room(self, decoder: Path) -> None:
        generator = make(decoder, max_new_tokens=4)
        short, long = ["a"], ["~" * (CONTEXT - 6)]
        expected = make(decoder, "static", max_new_tokens=4)
        for prompts in (short, long, short * 40):
            seeds = [0] * len(prompts)
            assert generator.generate(prompts, seeds) == expected.generate(prompts, seeds)
        assert generator.notes == []

    def test_rows_that_cannot_be_read_are_found_before(self, decoder: Path) -> None:
        found = make(decoder).generate(["hello", "~" * CONTEXT, "a"], [0, 0, 0])
        assert [response.error_type for response in found] == [None, "too_long", None]
        assert make(decoder).generate(["~" * CONTEXT], [0])[0].error_type == "too_long"

    def test_no_prompts_have_no_answers(self, decoder: Path) -> None:
        assert make(decoder).generate([], []) == []


def written(folder: Path, prompt: str) -> list[int]:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    with torch.inference_mode():
        sequence = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW
        )
    tokens: list[int] = sequence[0, ids.shape[1] :].tolist()
    return tokens


def ascii_text(folder: Path, across: int) -> str:
    """A text that some row writes with so many tokens, not at its beginning."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt in PROMPTS:
        tokens = written(folder, prompt)
        for start in range(2, NEW - across):
            text = str(tokenizer.decode(tokens[start : start + across]))
            if text.isascii() and text.strip() and len(text) >= across:
                return text
    raise AssertionError("no such text")


def fail_when(generator: Any, raises: Callable[[torch.Tensor], Exception | None]) -> None:
    """Make the model raise what `raises` says of the tokens that it is given."""

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        error = raises(kwargs["input_ids"])
        if error is not None:
            raise error

    generator._model.register_forward_pre_hook(hook, with_kwargs=True)


class TestFailures:
    def test_when_the_loop_dies_static_batches_take_over_and_say_so_once(self, decoder: Path) -> None:
        expected = static(decoder)
        poison = AutoTokenizer.from_pretrained(decoder)("☃")["input_ids"][1]
        generator = make(decoder)
        fail_when(generator, lambda ids: ValueError("device-side assert\nand more") if poison in ids[:, :-1] else None)
        for _ in range(2):
            found = generator.generate(PROMPTS, SEEDS)
            for prompt, response, good in zip(PROMPTS, found, expected, strict=True):
                if "☃" in prompt:
                    assert (response.error_type, response.error) == ("model_error", "ValueError: device-side assert")
                else:
                    assert response == good
        assert generator.notes == [
            f"the model '{decoder}' goes on in static batches: continuous ones ended with "
            "ValueError: device-side assert"
        ]
        assert generator._model.config._attn_implementation == "sdpa"

    def test_memory_that_runs_out_fails_no_row(self, decoder: Path) -> None:
        expected = static(decoder)
        generator = make(decoder)
        fail_when(generator, lambda ids: MemoryError() if ids.shape[0] == 1 and ids.shape[1] > 100 else None)
        assert generator.generate(PROMPTS, SEEDS) == expected
        assert generator.notes == [
            f"the model '{decoder}' goes on in static batches: continuous ones ended with MemoryError: MemoryError"
        ]

    def test_a_loop_that_cannot_start_is_no_error(self, decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: ContinuousBatchingManager) -> None:
            raise ImportError("no kernel for flash attention")

        monkeypatch.setattr(ContinuousBatchingManager, "start", refuse)
        generator = make(decoder)
        assert generator.generate(PROMPTS, SEEDS) == static(decoder)
        assert generator.notes[0].endswith("ended with ImportError: no kernel for flash attention")
        assert generator._model.config._attn_implementation == "sdpa"

    def test_a_row_that_the_loop_refuses_fails_alone(self, decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers.generation.continuous_batching.scheduler import FIFOScheduler

        add = FIFOScheduler.add_waiting_request
        snow = AutoTokenizer.from_pretrained(decoder)("☃")["input_ids"][1]

        def refuse(self: FIFOScheduler, state: Any) -> None:
            if snow in state.initial_tokens:
                raise ValueError("no such token")
            add(self, state)

        monkeypatch.setattr(FIFOScheduler, "add_waiting_request", refuse)
        generator = make(decoder)
        found = generator.generate(PROMPTS, SEEDS)
        for prompt, response, good in zip(PROMPTS, found, static(decoder), strict=True):
            bad = Response(None, None, good.input_tokens, 0, "model_error", "RuntimeError: no such token")
            assert response == (bad if "☃" in prompt else good)
        assert generator.notes == []

    def test_a_signal_stops_the_loop_at_once(self, decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Ended(BaseException):
            pass

        def interrupted(self: ContinuousBatchingManager, *_: Any, **__: Any) -> None:
            raise Ended

        monkeypatch.setattr(ContinuousBatchingManager, "get_result", interrupted)
        generator = make(decoder)
        before = set(threading.enumerate())
        with pytest.raises(Ended):
            generator.generate(PROMPTS, SEEDS)
        assert set(threading.enumerate()) <= before

    def test_a_call_under_way_ends_when_the_model_is_closed(self, decoder: Path) -> None:
        generator = make(decoder, max_new_tokens=64)
        closing = threading.Event()

        def hook(*_: Any) -> None:
            if not closing.is_set():
                closing.set()
                generator._continuous.close()

        generator._model.register_forward_pre_hook(hook)
        with pytest.raises(RuntimeError, match="the model was closed"):
            generator.generate(PROMPTS, SEEDS)

    def test_nothing_is_logged(
        self, decoder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        generator = make(decoder)
        capfd.readouterr()
        logging.getLogger("ContinuousBatchingLogger").propagate = True
        try:
            fail_when(generator, lambda ids: ValueError("secret"))
            generator.generate(PROMPTS[:2], [0, 0])
        finally:
            logging.getLogger("ContinuousBatchingLogger").propagate = False
        assert "secret" not in caplog.text
        assert "secret" not in "".join(capfd.readouterr())


class TestChoice:
    def loaded(self, folder: Path, **generation: Any) -> tuple[Loaded, ModelSpec]:
        settings = spec(folder, "auto", **generation)
        return load(settings, CPU), settings

    def test_auto_on_cpu_is_not_continuous(self, decoder: Path) -> None:
        assert make(decoder, "auto")._continuous is None
        assert make(decoder, "static").rows_at_a_time == 64

    def test_continuous_batches_take_many_rows_at_a_time(self, decoder: Path) -> None:
        assert make(decoder).rows_at_a_time == 1024
        assert make(decoder, batch_size=8).rows_at_a_time == 1024

    @pytest.mark.parametrize(
        ("device", "dtype", "flash", "expected"),
        [
            ("cuda", torch.bfloat16, True, True),
            ("cuda", torch.float16, True, True),
            ("cuda", torch.float32, True, False),
            ("cuda", torch.bfloat16, False, False),
            ("cpu", torch.bfloat16, True, False),
        ],
    )
    def test_they_pay_on_a_gpu_with_flash_attention(
        self,
        decoder: Path,
        monkeypatch: pytest.MonkeyPatch,
        device: str,
        dtype: torch.dtype,
        flash: bool,
        expected: bool,
    ) -> None:
        loaded, _ = self.loaded(decoder)
        for version in (2, 3):
            monkeypatch.setattr(
                f"transformers.utils.import_utils.is_flash_attn_{version}_available",
                lambda kernels_fallback_ok, version=version: flash and version == 2,
            )
        loaded.model.to(dtype)
        assert pays(dataclasses.replace(loaded, device=torch.device(device))) is expected

    def test_a_decoder_that_is_asked_greedily_can_have_them(self, decoder: Path) -> None:
        assert why_not(*self.loaded(decoder)) is None
        assert why_not(*self.loaded(decoder, stop=["\n"])) is None

    def test_over_several_gpus_they_are_not_to_be_had(self, decoder: Path) -> None:
        loaded, settings = self.loaded(decoder)
        gpus = (torch.device("cuda", 0), torch.device("cuda", 1))
        reason = why_not(dataclasses.replace(loaded, devices=gpus), settings)
        assert reason == "a model over several GPUs generates in static batches"

    def test_what_cannot_be_forced_is_a_sentence(self, decoder: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            make(decoder, temperature=0.7)
        assert str(caught.value) == (
            f"batching is continuous for the model '{decoder}', but sampling needs static batches, where each row "
            "draws from its own seed: leave it out"
        )
        with pytest.raises(InputError, match="but an encoder-decoder generates in static batches: leave it out"):
            make(tiny_encoder_decoder(tmp_path))

    def test_an_architecture_without_paged_attention_cannot_have_them(self, tmp_path: Path) -> None:
        from transformers import BloomConfig, BloomForCausalLM

        tokenizer = tiny_tokenizer(tmp_path)
        config = BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=4, pad_token_id=0)
        BloomForCausalLM(config).save_pretrained(tmp_path)
        with pytest.raises(InputError, match="but its architecture does not support it: leave it out"):
            make(tmp_path)
        assert make(tmp_path, "auto").generate(["hello"], [0])[0].error is None


def test_closing_frees_the_model_and_its_cache(decoder: Path) -> None:
    generator = make(decoder)
    generator.generate(PROMPTS, SEEDS)
    model, cache = weakref.ref(generator._model), weakref.ref(cache_of(generator).cache_tensor)
    assert cache() is not None
    generator.close()
    gc.collect()
    assert model() is None
    assert cache() is None


def cache_of(generator: Any) -> Any:
    return generator._model._cached_continuous_batching_manager.batch_processor.cache
