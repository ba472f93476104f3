"""Checkpoints that are not what they are used for: real files, changed, and loaded as a job loads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    ViTConfig,
)

from batchroute import generators, models, quality
from batchroute.errors import InputError
from batchroute.generators.settings import ModelSpec
from batchroute.quality.base import MetricSpec
from tests.generators.transformers.tiny_generators import tiny_decoder, tiny_encoder_decoder
from tests.support.tiny_models import tiny_router, tiny_tokenizer

CPU = torch.device("cpu")
Weights = dict[str, torch.Tensor]


def generator_of(folder: Path, **settings: Any) -> generators.Generator:
    spec = {"backend": "transformers", "model": str(folder), "generation": {"max_new_tokens": 4}, **settings}
    return generators.load(ModelSpec.model_validate(spec), lambda: CPU)


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        generator_of(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("llama"))


def changed(folder: Path, place: Path, change: Callable[[Weights], object]) -> Path:
    shutil.copytree(folder, place)
    file = place / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return place


def configured(folder: Path, **settings: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


class TestWeights:
    def test_a_checkpoint_that_lacks_weights_is_refused_with_their_names(self, llama: Path, tmp_path: Path) -> None:
        def drop(weights: Weights) -> None:
            for name in [name for name in weights if "layers.1.mlp" in name or "layers.1.self_attn.q" in name]:
                del weights[name]

        said = refusal(changed(llama, tmp_path / "m", drop))
        assert "its checkpoint lacks weights that LlamaForCausalLM needs: model.layers.1.mlp.down_proj.weight, " in said
        assert " and 1 more; they would be random" in said

    def test_a_checkpoint_with_further_weights_is_refused_with_their_names(self, llama: Path, tmp_path: Path) -> None:
        def add(weights: Weights) -> None:
            weights["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)

        said = refusal(changed(llama, tmp_path / "m", add))
        assert "weights that LlamaForCausalLM does not know: model.layers.0.self_attn.q_norm.weight; " in said

    def test_more_layers_than_the_configuration_says_are_refused(self, llama: Path, tmp_path: Path) -> None:
        folder = configured(shutil.copytree(llama, tmp_path / "m"), num_hidden_layers=1)
        assert "does not know: model.layers.1." in refusal(folder)

    def test_other_shapes_are_refused_with_both(self, llama: Path, tmp_path: Path) -> None:
        folder = configured(shutil.copytree(llama, tmp_path / "m"), intermediate_size=48)
        assert "model.layers.0.mlp.down_proj.weight (32×64 instead of 32×48)" in refusal(folder)

    def test_a_head_that_is_not_tied_must_be_there(self, llama: Path, tmp_path: Path) -> None:
        folder = changed(llama, tmp_path / "m", lambda weights: weights.pop("lm_head.weight"))
        assert "needs: lm_head.weight;" in refusal(folder)
        generator_of(configured(folder, tie_word_embeddings=True)).close()

    def test_buffers_of_earlier_versions_are_no_weights(self, tmp_path: Path) -> None:
        tokenizer = tiny_tokenizer(tmp_path / "m")
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=4)
        )
        model.save_pretrained(tmp_path / "m")
        file = tmp_path / "m" / "model.safetensors"
        weights = load_file(file)
        weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
        weights["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
        save_file(weights, file, metadata={"format": "pt"})
        generator_of(tmp_path / "m").close()

    def test_an_encoder_decoder_without_its_bias_of_logits_is_whole(self, tmp_path: Path) -> None:
        folder = tiny_encoder_decoder(tmp_path / "bart", "bart")
        generator_of(folder).close()
        less = changed(folder, tmp_path / "less", lambda weights: weights.pop("final_logits_bias", None))
        generator_of(less).close()
        none = changed(folder, tmp_path / "none", lambda weights: weights.pop("model.decoder.layers.1.fc1.weight"))
        assert "needs: model.decoder.layers.1.fc1.weight;" in refusal(none)


class TestKind:
    @pytest.mark.parametrize("family", [AutoModelForMaskedLM, AutoModel])
    def test_an_encoder_is_no_generator(self, tmp_path: Path, family: Any) -> None:
        tokenizer = tiny_tokenizer(tmp_path)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
        family.from_config(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
        said = refusal(tmp_path)
        assert "is no generator of text: its configuration says Bert" in said
        with pytest.raises(InputError, match="is no generator of text"):
            generators.check(ModelSpec(backend="transformers", model=str(tmp_path)))

    @pytest.mark.parametrize("architecture", ["bert", "modernbert", "gpt2"])
    def test_a_classifier_is_no_generator(self, tmp_path: Path, architecture: str) -> None:
        assert "ForSequenceClassification; name a decoder" in refusal(tiny_router(tmp_path, architecture))

    def test_a_model_of_images_is_no_generator(self, tmp_path: Path) -> None:
        tiny_tokenizer(tmp_path)
        AutoModel.from_config(
            ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, image_size=16, patch_size=8)
        ).save_pretrained(tmp_path)
        assert "is no generator of text: its configuration says ViTModel" in refusal(tmp_path)

    def test_a_decoder_of_the_family_of_an_encoder_is_one(self, tmp_path: Path) -> None:
        tokenizer = tiny_tokenizer(tmp_path)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
        config = BertConfig(vocab_size=len(tokenizer), is_decoder=True, pad_token_id=0, **sizes)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        (response,) = generator_of(tmp_path).generate(["hello"], [0])
        assert response.error is None


def test_a_plain_decoder_is_checked_without_transformers(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoConfig, "from_pretrained", None)
    models.check(str(llama), generator=True)


def test_a_model_that_sees_images_answers_text(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    text = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=96, pad_token_id=0, eos_token_id=4, **sizes)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=28, patch_size=14, **sizes), text_config=text, image_token_index=5
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        for weights in model.parameters():
            if weights.ndim > 1:
                torch.nn.init.normal_(weights, std=0.4)
    model.save_pretrained(tmp_path)
    prompts = ["hello", "What is 12 plus 30? Answer with one number only.", "The quick brown fox"]
    found = generator_of(tmp_path).generate(prompts, [0] * 3)
    model.eval()
    for prompt, response in zip(prompts, found, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.inference_mode():
            wanted = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=4, eos_token_id=4
            )
        assert response.text == tokenizer.decode(wanted[0, ids.shape[1] :], skip_special_tokens=True)


class TestMetrics:
    def metric(self, name: str, folder: Path) -> quality.Metric:
        return quality.load(MetricSpec.model_validate({"name": name, "model": str(folder)}), lambda: CPU)

    def test_a_metrics_model_that_lacks_weights_is_refused(self, llama: Path, tmp_path: Path) -> None:
        folder = changed(llama, tmp_path / "m", lambda weights: weights.pop("model.norm.weight"))
        with pytest.raises(InputError, match=r"of the metric likelihood: .* lacks weights .*: model\.norm\.weight;"):
            self.metric("likelihood", folder)
        with pytest.raises(InputError, match=r"of the metric likelihood is no generator of text"):
            self.metric("likelihood", tiny_router(tmp_path / "bert"))

    def test_an_encoder_may_have_a_head_and_lack_a_pooler(self, tmp_path: Path) -> None:
        whole = tiny_router(tmp_path / "bert")
        self.metric("embedding", whole).close()

        def drop(weights: Weights) -> None:
            for name in [name for name in weights if "pooler" in name]:
                del weights[name]

        self.metric("embedding", changed(whole, tmp_path / "less", drop)).close()
        shorter = configured(shutil.copytree(whole, tmp_path / "shorter"), num_hidden_layers=1)
        with pytest.raises(InputError, match=r"does not know: (bert\.)?encoder\.layer\.1\."):
            self.metric("embedding", shorter)
        name = "bert.encoder.layer.0.output.dense.weight"
        lacking = changed(whole, tmp_path / "lacking", lambda weights: weights.pop(name))
        with pytest.raises(InputError, match=r"lacks weights that BertModel needs: encoder\.layer\.0\.output\.dense"):
            self.metric("embedding", lacking)
