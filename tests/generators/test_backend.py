"""The records of backends: how they are found, what the job file makes of them, and a backend of another package."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from pydantic import ValidationError

from batchroute import models
from batchroute.config.job import JobModel
from batchroute.generators.backend import backend_of, names, own_backends
from batchroute.generators.backend_settings import BACKEND_SETTINGS
from batchroute.generators.settings import ModelSpec
from batchroute.pipeline.identity import model_settings
from tests.support.jobs import JobFolder, table

# The settings of a model in the job file, and what version 0.1.0 made of them besides COMMON: with any other identity
# its unfinished runs could not be resumed.
IDENTITIES = [
    ("backend: echo", "model: echo"),
    (
        "{backend: echo, model: m, endpoint: 'https://a/v1', batch_size: 4, dtype: bfloat16, adapter: a, "
        "extra_body: {k: 1}, tokenizer: t, quantization: nf4, engine: {e: 1}, concurrency: 3}",
        "{dtype: bfloat16, adapter: a, extra_body: 'sha256:4514a0c66d60ecfe', tokenizer: t, quantization: nf4}",
    ),
    (
        "{backend: transformers, model: m, batch_size: 8, batching: static, device_map: auto, dtype: bfloat16, "
        "quantization: nf4, adapter: a, allow_pickle: true, template: 'Q: {prompt}', system: s, "
        "price: {gpu_hour: 2.1}, on_failure: large}",
        "{dtype: bfloat16, quantization: nf4, adapter: weights of a, identity: weights of m, "
        "template: 'Q: {prompt}', system: s, price: {gpu_hour: '2.1'}, on_failure: large}",
    ),
    ("{backend: transformers, model: m}", "identity: weights of m"),
    (
        "{backend: vllm, model: m, tensor_parallel: 2, data_parallel: 2, engine: {max_num_seqs: 8}, "
        "trust_remote_code: true, quantization: fp8, adapter: a, python: /opt/vllm/bin/python}",
        "{identity: weights of m, quantization: fp8, adapter: weights of a}",
    ),
    (
        "{backend: vllm, model: m, engine: {enforce_eager: true, quantization: fp8, hf_overrides: {rope_theta: 1}}}",
        "{identity: weights of m, engine: {quantization: fp8, hf_overrides: {rope_theta: 1}}}",
    ),
    (
        "{backend: openai, model: m, endpoint: 'https://a/v1', concurrency: 4, tokenizer: t, extra_body: {k: 1}, "
        "retries: 2, response_format: {type: json_object}}",
        "{tokenizer: t, extra_body: 'sha256:4514a0c66d60ecfe', response_format: {type: json_object}}",
    ),
    ("{backend: openai_batch, model: m, batch_requests: 100, poll_seconds: 5}", "{}"),
]
COMMON = (
    "{model: m, dtype: auto, extra_body: {}, "
    "generation: {max_new_tokens: 256, seed: 0, stop: [], temperature: 0.0, top_k: 0, top_p: 1.0}}"
)


@pytest.mark.parametrize(("settings", "expected"), IDENTITIES)
def test_the_identity_of_a_model_is_that_of_version_0_1_0(
    monkeypatch: pytest.MonkeyPatch, settings: str, expected: str
) -> None:
    monkeypatch.setattr(models, "identity", lambda name, **_: f"weights of {name}")
    model = JobModel.model_validate(yaml.safe_load(settings))
    assert model_settings(model) == {**yaml.safe_load(COMMON), "backend": model.backend, **yaml.safe_load(expected)}


def test_each_setting_is_read_by_a_backend_and_only_known_settings_are_named() -> None:
    real = [record for record in own_backends().values() if not record.any_settings]
    assert frozenset().union(*(record.settings for record in real)) == BACKEND_SETTINGS
    for record in real:
        assert record.speed <= record.settings, record.name


def test_settings_of_other_backends_are_refused_and_left_alone_in_a_dry_run() -> None:
    assert ModelSpec.model_validate({"backend": "echo", "concurrency": 4, "batch_size": 8}).backend == "echo"
    for settings, sentence in (
        ({"backend": "vllm", "batch_size": 8}, "batch_size is a setting of the backend transformers"),
        (
            {"backend": "transformers", "timeout": 8},
            "timeout is a setting of the backend anthropic and batch and openai and openai_batch",
        ),
        ({"backend": "openai", "dtype": "float16"}, "dtype is a setting of the backend transformers and vllm"),
        ({"backend": "openai", "poll_seconds": 1}, "poll_seconds is a setting of the backend batch and openai_batch"),
    ):
        with pytest.raises(ValidationError) as caught:
            ModelSpec.model_validate({"model": "m", **settings})
        assert caught.value.errors()[0]["msg"] == f"Value error, {sentence}, and this one is {settings['backend']}"


@pytest.mark.parametrize("name", ["llama", 3, None, ["vllm"]])
def test_an_unknown_backend_is_refused_with_the_known_ones(name: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelSpec.model_validate({"backend": name, "model": "m"})
    assert [problem["msg"] for problem in caught.value.errors()] == [
        "Input should be 'anthropic', 'batch', 'echo', 'openai', 'openai_batch', 'transformers', 'vllm' or 'auto'"
    ]


def test_the_records_are_found_without_torch() -> None:
    script = (
        "import sys; from batchroute.generators.settings import ModelSpec; ModelSpec(backend='echo');"
        "print(sorted({'torch', 'transformers', 'openai', 'vllm'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


SHOUTING = """
from batchroute.generators.backend import Backend
from batchroute.generators.base import Response
from batchroute.prompt import as_text


class Shouting:
    load_seconds, rows_at_a_time, units_at_once, notes = 0.0, 64, 1, ()

    def __init__(self, spec):
        self._mark = spec.engine.get("mark", "!")

    def generate(self, prompts, seeds):
        return [Response(as_text(prompt).upper() + self._mark, "stop", 1, 1) for prompt in prompts]

    def close(self):
        pass


SHOUT = Backend(
    name="shout",
    settings=frozenset({"engine", "batch_size"}),
    speed=frozenset({"batch_size"}),
    check=lambda spec: "shouting",
    load=lambda spec, device, gpus: Shouting(spec),
)
"""


@pytest.fixture
def shouting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What `pip install` makes of a package with one module and one entry point, on the path of the interpreter."""
    site = tmp_path / "site"
    (site / "shouting").mkdir(parents=True)
    (site / "shouting" / "__init__.py").write_text(SHOUTING)
    described = site / "shouting-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[batchroute.backends]\nshout = shouting:SHOUT\n")
    assert [entry.name for entry in Distribution.at(described).entry_points] == ["shout"]
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    backend_of.cache_clear()
    yield site
    backend_of.cache_clear()
    sys.modules.pop("shouting", None)


def test_a_job_runs_with_a_backend_of_another_package(shouting: Path, tmp_path: Path) -> None:
    job = JobFolder(tmp_path, table(20))
    job.settings["models"]["small"] = {"backend": "shout", "engine": {"mark": "?"}, "price": {"input": 1, "output": 1}}
    command = [sys.executable, "-m", "batchroute"]
    checked = subprocess.run([*command, "validate", job.path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "shouting" in checked.stdout
    done = subprocess.run([*command, "run", job.path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = pl.read_parquet(job.output / "data" / "*.parquet")
    small = rows.filter(pl.col("route") == "small")
    assert len(small) > 0
    assert small["response"].to_list() == [f"{prompt.upper()}?" for prompt in small["prompt"].to_list()]


@pytest.mark.usefixtures("shouting")
def test_settings_of_a_backend_of_another_package_are_its_records() -> None:
    assert names()[-1] == "shout"
    model = JobModel.model_validate({"backend": "shout", "engine": {"mark": "?"}, "batch_size": 3})
    settings = model_settings(model)
    assert settings["engine"] == {"mark": "?"}
    assert "batch_size" not in settings
    with pytest.raises(
        ValidationError, match="timeout is a setting of the backend anthropic and batch and openai and openai_batch"
    ):
        JobModel.model_validate({"backend": "shout", "timeout": 3})


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("raise RuntimeError('no licence')", "the backend shout (shouting:SHOUT) cannot be imported: no licence"),
        ("SHOUT = 1", "shouting:SHOUT is no batchroute backend named shout"),
        (SHOUTING.replace('"shout"', '"quiet"'), "shouting:SHOUT is no batchroute backend named shout"),
    ],
)
def test_a_broken_backend_of_another_package_is_named(shouting: Path, source: str, sentence: str) -> None:
    (shouting / "shouting" / "__init__.py").write_text(source)
    assert json.loads(ModelSpec.model_validate({"backend": "echo"}).model_dump_json())["backend"] == "echo"
    with pytest.raises(ValidationError) as caught:
        ModelSpec.model_validate({"backend": "shout"})
    assert caught.value.errors()[0]["msg"] == f"Value error, {sentence}"
