from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from batchroute.errors import InputError
from batchroute.generators.base import Response
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.generator import TransformersGenerator
from batchroute.generators.transformers.layers import PackedLayer
from batchroute.generators.transformers.loading import devices_of
from batchroute.hardware.devices import precision
from tests.generators.transformers.tiny_generators import tiny_decoder
from tests.support.tiny_models import tiny_tokenizer

CPU = torch.device("cpu")
NEW = 12
PROMPTS = ["hello", "What is 12 plus 30? Answer with one number only.", "The quick brown fox"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose matrices are large enough for blocks of 64 values in 4 bits."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = tiny_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for weights in model.parameters():
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lora(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter, made and saved by peft, that changes what the model writes."""
    folder = tmp_path_factory.mktemp("lora")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        settings = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(llama), settings)
        for name, weights in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weights, std=0.2)
    adapted.save_pretrained(str(folder))
    return folder


def load(folder: Path, **settings: Any) -> TransformersGenerator:
    spec = {"backend": "transformers", "model": str(folder), "generation": {"max_new_tokens": NEW}, **settings}
    return TransformersGenerator(ModelSpec.model_validate(spec), CPU)


def answers(folder: Path, **settings: Any) -> list[Response]:
    return load(folder, **settings).generate(PROMPTS, [0] * len(PROMPTS))


def texts_of(model: Any, folder: Path) -> list[str]:
    """What a model writes when transformers is asked for one prompt after another."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            sequence = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW
            )
        found.append(str(tokenizer.decode(sequence[0, ids.shape[1] :], skip_special_tokens=True)))
    return found


def test_a_response_ends_at_the_end_tokens_of_the_tokenizer_and_of_the_configuration(tmp_path: Path) -> None:
    folder = tiny_decoder(tmp_path / "one", eos_token_id=7)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert load(folder)._static._writer.ends == {7, tokenizer.eos_token_id}
    several = tiny_decoder(tmp_path / "several", eos_token_id=[9, 7])
    writer = load(several)._static._writer
    assert writer.generation.eos_token_id == [9, 7, tokenizer.eos_token_id]


def test_half_of_a_surrogate_pair_fails_its_row_alone(llama: Path) -> None:
    good, bad, other = load(llama).generate(["hello", "a \ud83d b", "fox"], [0] * 3)
    assert (good.error, other.error) == (None, None)
    assert bad.error_type == "model_error"
    assert bad.error == "the tokenizer cannot read the prompt: it holds half of a surrogate pair"


class TestQuantization:
    @pytest.mark.parametrize(
        ("name", "kind", "weights"),
        [
            ("int8", "Linear8bitLt", torch.int8),
            ("nf4", "Linear4bit", torch.uint8),
            ("fp4", "Linear4bit", torch.uint8),
        ],
    )
    def test_weights_take_fewer_bits_and_rows_are_answered(
        self, llama: Path, name: str, kind: str, weights: torch.dtype
    ) -> None:
        generator = load(llama, quantization=name)
        matrix = generator._model.model.layers[0].mlp.down_proj
        assert (type(matrix).__name__, matrix.weight.dtype) == (kind, weights)
        found = generator.generate(PROMPTS, [0] * len(PROMPTS))
        assert [response.error for response in found] == [None] * len(PROMPTS)
        assert all(response.text for response in found)

    def test_the_two_kinds_of_four_bits_are_not_the_same(self, llama: Path) -> None:
        kinds = [load(llama, quantization=name)._model.model.layers[0].mlp.down_proj for name in ("nf4", "fp4")]
        assert [matrix.weight.quant_type for matrix in kinds] == ["nf4", "fp4"]

    def test_an_unknown_one_is_a_sentence(self, llama: Path) -> None:
        with pytest.raises(InputError) as caught:
            load(llama, quantization="awq")
        assert str(caught.value) == "quantization is 'awq', but the backend transformers knows int8, nf4 and fp4"

    def test_without_its_package_it_says_what_to_install(self, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "bitsandbytes", None)
        with pytest.raises(InputError) as caught:
            load(llama, quantization="int8")
        assert str(caught.value) == "quantization needs a package: pip install 'batchroute[quantization]'"


class TestAdapter:
    def test_its_answers_are_those_of_peft_and_not_those_of_the_model(self, llama: Path, lora: Path) -> None:
        found = [response.text for response in answers(llama, adapter=str(lora))]
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), lora).eval()
        assert found == texts_of(adapted, llama)
        assert found != [response.text for response in answers(llama)]

    def test_it_is_merged_and_costs_nothing_per_token(self, llama: Path, lora: Path) -> None:
        model = load(llama, adapter=str(lora))._model
        assert type(model) is LlamaForCausalLM
        assert type(model.model.layers[0]) is PackedLayer

    @pytest.mark.parametrize("quantization", ["int8", "nf4"])
    def test_beside_quantised_weights_it_is_not_merged(self, llama: Path, lora: Path, quantization: str) -> None:
        generator = load(llama, adapter=str(lora), quantization=quantization)
        matrix = generator._model.model.layers[0].self_attn.q_proj
        assert type(matrix.base_layer).__name__ == ("Linear8bitLt" if quantization == "int8" else "Linear4bit")
        assert type(generator._model) is LlamaForCausalLM
        found = [response.text for response in generator.generate(PROMPTS, [0] * len(PROMPTS))]
        assert found != [response.text for response in answers(llama, quantization=quantization)]

    def test_without_its_package_it_says_what_to_install(
        self, llama: Path, lora: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "peft", None)
        with pytest.raises(InputError) as caught:
            load(llama, adapter=str(lora))
        assert str(caught.value) == "an adapter needs a package: pip install 'batchroute[adapters]'"

    def test_an_adapter_that_is_not_there_is_named(self, llama: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="the adapter directory '/none/such' does not exist"):
            load(llama, adapter="/none/such")
        with pytest.raises(InputError, match=r"is not an adapter directory: it has no adapter_config\.json"):
            load(llama, adapter=str(tmp_path))
        with pytest.raises(InputError, match="cannot load the adapter 'nobody/none' of the model") as caught:
            load(llama, adapter="nobody/none")
        assert "\n" not in str(caught.value)

    def test_an_adapter_that_lacks_weights_or_has_others_is_refused(
        self, llama: Path, lora: Path, tmp_path: Path
    ) -> None:
        file = "adapter_model.safetensors"
        weights = load_file(lora / file)
        name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
        less = shutil.copytree(lora, tmp_path / "less")
        save_file({key: value for key, value in weights.items() if key != name}, less / file)
        with pytest.raises(InputError, match=f"it lacks weights that the model takes: {name};"):
            load(llama, adapter=str(less))
        more = shutil.copytree(lora, tmp_path / "more")
        other = name.replace("layers.1", "layers.7")
        save_file({**weights, other: weights[name].clone()}, more / file)
        with pytest.raises(InputError, match=f"it has weights that the model does not take: {other};"):
            load(llama, adapter=str(more))

    def test_an_adapter_of_another_model_is_a_sentence(self, llama: Path, lora: Path, tmp_path: Path) -> None:
        other = shutil.copytree(lora, tmp_path / "lora")
        config = json.loads((other / "adapter_config.json").read_text())
        (other / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["c_attn"]}))
        with pytest.raises(InputError, match=r"cannot load the adapter '.*' of the model") as caught:
            load(llama, adapter=str(other))
        assert "\n" not in str(caught.value)


class TestPlaces:
    def test_a_device_map_answers_alike(self, llama: Path) -> None:
        generator = load(llama, device_map="auto")
        assert generator._device == CPU
        assert generator.generate(PROMPTS, [0] * len(PROMPTS)) == answers(llama)

    @pytest.mark.parametrize(
        ("places", "expected"),
        [
            ({"": 1}, ["cuda:1"]),
            ({"model.embed": 0, "model.layers.0": 0, "model.layers.1": 1, "lm_head": 1}, ["cuda:0", "cuda:1"]),
            ({"model.embed": "cpu", "model.layers.0": 0, "model.layers.1": "disk"}, ["cuda:0"]),
            ({"model": "cpu", "lm_head": "disk"}, ["cpu"]),
            (None, ["cpu"]),
        ],
    )
    def test_a_model_over_several_devices_takes_its_inputs_on_the_first_gpu(
        self, places: dict[str, int | str] | None, expected: list[str]
    ) -> None:
        model = SimpleNamespace(device=CPU, hf_device_map=places)
        assert devices_of(model) == tuple(torch.device(name) for name in expected)

    def test_an_unknown_device_map_is_a_sentence(self, llama: Path) -> None:
        with pytest.raises(InputError, match="cannot load the model") as caught:
            load(llama, device_map="everywhere")
        assert "\n" not in str(caught.value)


class TestPrecision:
    GPU = torch.device("cuda")

    @pytest.mark.parametrize(
        ("checkpoint", "with_bf16", "without"),
        [
            (torch.bfloat16, torch.bfloat16, torch.float16),
            (torch.float16, torch.float16, torch.float16),
            (torch.float32, torch.bfloat16, torch.float16),
            (None, torch.bfloat16, torch.float16),
        ],
    )
    def test_auto_on_a_gpu_is_the_checkpoints_half_precision_where_the_gpu_has_it(
        self,
        monkeypatch: pytest.MonkeyPatch,
        checkpoint: torch.dtype | None,
        with_bf16: torch.dtype,
        without: torch.dtype,
    ) -> None:
        for has, expected in ((True, with_bf16), (False, without)):
            monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
            assert precision("auto", self.GPU, checkpoint) == expected
            assert precision("float32", self.GPU, checkpoint) == torch.float32
