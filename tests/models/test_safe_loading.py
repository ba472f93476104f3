"""No model runs code of its own when it is loaded: weights are safetensors, and the code is that of transformers."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from batchroute import models, quality
from batchroute.errors import InputError
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.generator import TransformersGenerator
from batchroute.quality.base import Metric, MetricSpec
from batchroute.router.model import Router
from batchroute.router.scoring import score
from batchroute.router.training.encoders import untrained_router
from tests.generators.transformers.tiny_generators import tiny_decoder
from tests.support.tiny_models import tiny_router

CPU = torch.device("cpu")


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self._path), "w")


def pickled(folder: Path, touch: Path | None = None) -> Path:
    """Turn a model's weights into a pickle, with a trap in it when `touch` is given."""
    safe = folder / "model.safetensors"
    weights: dict[str, Any] = dict(load_file(safe))
    if touch is not None:
        weights["trap"] = Touch(touch)
    torch.save(weights, folder / "pytorch_model.bin")
    safe.unlink()
    return folder


def generator(folder: Path, **settings: Any) -> TransformersGenerator:
    generation = {"max_new_tokens": 4}
    spec = {"backend": "transformers", "model": str(folder), "generation": generation, **settings}
    return TransformersGenerator(ModelSpec.model_validate(spec), CPU)


def metric(folder: Path) -> Metric:
    return quality.load(MetricSpec(name="likelihood", model=str(folder)), lambda: CPU)


LOADERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any], str]] = {
    "generator": (tiny_decoder, generator, "the model '{}'"),
    "router": (tiny_router, lambda folder: Router.load(str(folder), CPU), "the router '{}'"),
    "base": (tiny_router, lambda folder: untrained_router(str(folder), 32, CPU), "the base '{}'"),
    "metric": (tiny_decoder, metric, "the model '{}' of the metric likelihood"),
    "check": (tiny_decoder, lambda folder: models.check(str(folder)), "the model '{}'"),
    "check of a router": (tiny_router, lambda folder: models.check(str(folder), router=True), "the router '{}'"),
}
ALLOW = {
    **dict.fromkeys(("generator", "check"), "set allow_pickle: true for this model"),
    **dict.fromkeys(("router", "check of a router"), "set router.allow_pickle: true"),
    "base": "pass --allow-pickle",
}


@pytest.mark.parametrize("kind", LOADERS)
class TestPickle:
    def test_a_trap_is_not_sprung_and_the_sentence_says_what_to_do(self, tmp_path: Path, kind: str) -> None:
        make, load, name = LOADERS[kind]
        folder, trap = make(tmp_path / "model"), tmp_path / "sprung"
        load(folder)
        pickled(folder, trap)
        with pytest.raises(InputError) as caught:
            load(folder)
        assert not trap.exists()
        allow = f", or {ALLOW[kind]} if you trust it" if kind in ALLOW else ""
        assert str(caught.value) == (
            f"the weights of {name.format(folder)} are a pickle, which can run code when it is loaded: "
            f"save it again with save_pretrained, which writes safetensors{allow}"
        )

    def test_a_pickle_beside_safetensors_is_not_read(self, tmp_path: Path, kind: str) -> None:
        make, load, _ = LOADERS[kind]
        folder, trap = make(tmp_path / "model"), tmp_path / "sprung"
        shutil.copy(folder / "model.safetensors", tmp_path / "safe")
        pickled(folder, trap)
        shutil.copy(tmp_path / "safe", folder / "model.safetensors")
        load(folder)
        assert not trap.exists()

    def test_weights_in_many_files_are_no_way_around(self, tmp_path: Path, kind: str) -> None:
        make, load, _ = LOADERS[kind]
        folder, trap = pickled(make(tmp_path / "model"), tmp_path / "sprung"), tmp_path / "sprung"
        (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
        index = {"metadata": {}, "weight_map": {"trap": "pytorch_model-00001-of-00001.bin"}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        with pytest.raises(InputError, match="are a pickle, which can run code"):
            load(folder)
        assert not trap.exists()


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_a_pickle_that_is_allowed_answers_as_the_safetensors_do(tmp_path: Path) -> None:
    folder = tiny_decoder(tmp_path / "model")
    expected = generator(folder).generate(["hello"], [0])
    pickled(folder)
    models.check(str(folder), allow_pickle=True)
    assert generator(folder, allow_pickle=True).generate(["hello"], [0]) == expected


def test_a_trap_in_a_pickle_that_is_allowed_is_not_sprung_either(tmp_path: Path) -> None:
    folder = pickled(tiny_decoder(tmp_path / "model"), tmp_path / "sprung")
    with pytest.raises(InputError, match="cannot load the model") as caught:
        generator(folder, allow_pickle=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_a_router_or_a_base_that_is_a_pickle_can_be_allowed(tmp_path: Path) -> None:
    folder = tiny_router(tmp_path / "router")
    expected = score(Router.load(str(folder), CPU), ["Which fruit?"]).scores
    pickled(folder)
    assert score(Router.load(str(folder), CPU, allow_pickle=True), ["Which fruit?"]).scores == expected
    assert untrained_router(str(folder), 32, CPU, allow_pickle=True).max_length == 32


class TestAdapter:
    def adapter(self, folder: Path, base: Path, touch: Path | None = None) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(base)
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(str(folder))
        safe = folder / "adapter_model.safetensors"
        weights: dict[str, Any] = dict(load_file(safe))
        if touch is not None:
            weights["trap"] = Touch(touch)
        torch.save(weights, folder / "adapter_model.bin")
        safe.unlink()
        return folder

    def test_one_that_is_a_pickle_is_refused_unless_allowed(self, tmp_path: Path) -> None:
        base = tiny_decoder(tmp_path / "model")
        adapter, trap = self.adapter(tmp_path / "trap", base, tmp_path / "sprung"), tmp_path / "sprung"
        for load in (lambda: generator(base, adapter=str(adapter)), lambda: models.check_adapter(str(adapter))):
            with pytest.raises(InputError, match=r"the weights of the adapter '.*are a pickle.*set allow_pickle: true"):
                load()
        assert not trap.exists()
        harmless = self.adapter(tmp_path / "harmless", base)
        assert generator(base, adapter=str(harmless), allow_pickle=True).generate(["hello"], [0])[0].text

    def test_a_model_folder_with_a_pickled_adapter_in_it_is_refused(self, tmp_path: Path) -> None:
        base = tiny_decoder(tmp_path / "model")
        both = shutil.copytree(base, tmp_path / "both")
        self.adapter(both, base, tmp_path / "sprung")
        with pytest.raises(InputError, match="are a pickle"):
            generator(both)
        assert not (tmp_path / "sprung").exists()


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path({touch!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "own_llama"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def with_code(folder: Path, touch: Path) -> Path:
    """A Llama that says it is an architecture of its own, whose code creates a file when it is imported."""
    tiny_decoder(folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own_llama"
    config["architectures"] = ["OwnForCausalLM"]
    config["auto_map"] = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text(CODE.format(touch=str(touch)))
    return folder


class TestCode:
    @pytest.fixture(autouse=True)
    def _modules(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
        monkeypatch.syspath_prepend(str(tmp_path / "modules"))

    @pytest.mark.parametrize("kind", LOADERS)
    def test_it_does_not_run_and_the_sentence_says_what_to_set(self, tmp_path: Path, kind: str) -> None:
        _, load, name = LOADERS[kind]
        folder = with_code(tmp_path / "model", tmp_path / "ran")
        with pytest.raises(InputError) as caught:
            load(folder)
        assert not (tmp_path / "ran").exists()
        may = (
            "set trust_remote_code: true for this model if you trust it"
            if kind in ("generator", "check")
            else "it is not run"
        )
        assert str(caught.value) == f"{name.format(folder)} brings code of its own: {may}"

    def test_it_runs_where_the_job_says_so(self, tmp_path: Path) -> None:
        folder = with_code(tmp_path / "model", tmp_path / "ran")
        expected = generator(tiny_decoder(tmp_path / "plain")).generate(["hello"], [0])
        models.check(str(folder), trust_remote_code=True)
        assert (tmp_path / "ran").exists()
        found = generator(folder, trust_remote_code=True)
        assert type(found._model).__name__ == "OwnForCausalLM"
        assert found.generate(["hello"], [0]) == expected

    def test_of_a_known_architecture_that_brings_code_too_transformers_own_is_used(self, tmp_path: Path) -> None:
        folder = with_code(tmp_path / "model", tmp_path / "ran")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
        assert type(generator(folder)._model).__name__ == "LlamaForCausalLM"
        assert not (tmp_path / "ran").exists()

    def test_a_tokenizer_that_brings_code_is_refused_too(self, tmp_path: Path) -> None:
        folder = tiny_decoder(tmp_path / "model")
        file = folder / "tokenizer_config.json"
        own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["modeling_own.OwnTokenizer", None]}}
        file.write_text(json.dumps({**json.loads(file.read_text()), **own}))
        (folder / "modeling_own.py").write_text(CODE.format(touch=str(tmp_path / "ran")))
        with pytest.raises(InputError, match="brings code of its own: set trust_remote_code: true"):
            generator(folder)
        assert not (tmp_path / "ran").exists()
