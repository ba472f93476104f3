from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from batchroute import models
from batchroute.errors import InputError, first_line
from tests.support.tiny_models import tiny_router


def model_dir(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_directory_resolves_to_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_dir(tmp_path / "models" / "router")
    monkeypatch.chdir(tmp_path)
    assert models.resolve("models/router") == str(model)
    assert models.resolve("./models/router") == str(model)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.resolve("~/models/router") == str(model)


def test_a_hub_id_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert models.resolve("google/flan-t5-large") == "google/flan-t5-large"
    assert models.identity("google/flan-t5-large") == "google/flan-t5-large"


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "~/absent", "models/of/ours"])
def test_a_path_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"the model directory '{name}' does not exist"):
        models.resolve(name)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it has no config\.json"):
        models.resolve(str(tmp_path))


def test_a_missing_embedded_model_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        models.resolve("embedded:smollm2")
    assert str(caught.value) == (
        f"the embedded model 'embedded:smollm2' is not in {tmp_path}/batchroute/models: "
        "run 'batchroute models fetch smollm2'"
    )
    model = model_dir(tmp_path / "batchroute" / "models" / "smollm2")
    assert models.resolve("embedded:smollm2") == str(model)


def test_a_copy_elsewhere_has_the_same_identity(tmp_path: Path) -> None:
    model = model_dir(tmp_path / "a")
    shutil.copytree(model, tmp_path / "b" / "c", copy_function=shutil.copyfile)
    os.utime(tmp_path / "b" / "c" / "config.json", (1, 1))
    assert models.identity(str(model)) == models.identity(str(tmp_path / "b" / "c"))
    assert models.identity(str(model)).startswith("sha256:")


@pytest.mark.parametrize("at", [0, 1 << 19, 3 << 20, (4 << 20) - 1])
def test_changed_weights_change_the_identity(tmp_path: Path, at: int) -> None:
    weights = bytearray(4 << 20)
    before = models.identity(str(model_dir(tmp_path / "a", bytes(weights))))
    weights[at] = 1
    assert models.identity(str(model_dir(tmp_path / "b", bytes(weights)))) != before


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 2 << 20])
def test_small_files_have_one_digest_in_all_versions(tmp_path: Path, size: int) -> None:
    model = str(model_dir(tmp_path / "a", os.urandom(size)))
    assert models.identity(model) == models.identity(model, version=1)


@pytest.mark.parametrize("start", [1 << 20, 5 << 20, 20 << 20, 62 << 20])
def test_a_change_in_the_middle_of_a_large_file_changes_the_identity(tmp_path: Path, start: int) -> None:
    weights = bytearray(64 << 20)
    before = models.identity(str(model_dir(tmp_path / "a", bytes(weights))))
    earlier = models.identity(str(tmp_path / "a"), version=1)
    # Blocks lie 496 KiB apart in a file of 64 MiB.
    weights[start : start + (496 << 10)] = b"x" * (496 << 10)
    changed = str(model_dir(tmp_path / "b", bytes(weights)))
    assert models.identity(changed) != before
    assert models.identity(changed, version=1) == earlier


def test_the_digest_of_a_large_file_reads_a_bounded_part_of_it() -> None:
    for size in (0, 1, 1 << 20, (2 << 20) + 1, 9 << 20, (10 << 20) + 77, 1 << 30, 5_000_000_001, 1 << 40):
        parts = list(models._sampled(size, 2))
        assert sum(length for _, length in parts) <= 10 << 20
        assert all(start >= 0 and length > 0 for start, length in parts)
        if size > 1 << 20:
            assert max(start + length for start, length in parts) == size
        if 2 << 20 < size <= 10 << 20:
            assert sum(length for _, length in parts) == size


def test_a_changed_or_renamed_small_file_changes_the_identity(tmp_path: Path) -> None:
    model = model_dir(tmp_path / "a")
    seen = {models.identity(str(model))}
    (model / "tokenizer.json").write_text("{}")
    seen.add(models.identity(str(model)))
    (model / "tokenizer.json").rename(model / "vocab.json")
    seen.add(models.identity(str(model)))
    (model / "config.json").write_text("[]")
    seen.add(models.identity(str(model)))
    assert len(seen) == 4


def test_hidden_files_do_not_change_the_identity(tmp_path: Path) -> None:
    model = model_dir(tmp_path / "a")
    before = models.identity(str(model))
    (model / ".DS_Store").write_text("x")
    assert models.identity(str(model)) == before


def test_check_passes_a_router_and_refuses_a_classifier_of_three_labels(tmp_path: Path) -> None:
    models.check(str(tiny_router(tmp_path / "one", labels=1)), router=True)
    three = str(tiny_router(tmp_path / "three", labels=3))
    models.check(three)
    with pytest.raises(InputError, match="has 3 labels: it must be a classifier with one or two"):
        models.check(three, router=True)


def test_check_refuses_a_damaged_model_in_one_sentence(tmp_path: Path) -> None:
    model = model_dir(tmp_path / "a")
    (model / "config.json").write_text("{not json")
    with pytest.raises(InputError, match="cannot load the model ") as caught:
        models.check(str(model))
    assert "\n" not in str(caught.value)


def test_an_adapter_is_a_directory_of_its_own_kind(tmp_path: Path) -> None:
    adapter, model = tmp_path / "adapter", model_dir(tmp_path / "model")
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    assert models.resolve(str(adapter), adapter=True) == str(adapter)
    assert models.resolve("team/adapter", adapter=True) == "team/adapter"
    models.check_adapter(str(adapter))
    with pytest.raises(InputError, match=r"is not an adapter directory: it has no adapter_config\.json"):
        models.check_adapter(str(model))
    with pytest.raises(InputError, match="the adapter directory '/none/such' does not exist"):
        models.check_adapter("/none/such")


def test_an_adapter_has_an_identity_as_models_have(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    before = models.identity(str(adapter))
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    assert before.startswith("sha256:")
    assert models.identity(str(adapter)) != before
    with pytest.raises(InputError, match=r"it has no config\.json"):
        models.identity(str(tmp_path))


def test_weights_on_a_hub_that_are_no_safetensors_are_told_from_what_is_not_there() -> None:
    # The words of transformers for a repository with a pickle alone.
    missing = OSError(
        "team/model does not appear to have a file named model.safetensors or model.safetensors.index.json and thus "
        "cannot be loaded with `safetensors`. Please do not set `use_safetensors=True`."
    )
    with pytest.raises(InputError) as caught, models.loading("the model 'team/model'", "team/model"):
        raise missing
    assert str(caught.value) == (
        "the model 'team/model' has no safetensors, but maybe a pickle, which can run code when it is loaded: "
        "save it again with save_pretrained, which writes safetensors, "
        "or set allow_pickle: true for this model if you trust it"
    )
    with (
        pytest.raises(InputError, match=r"^cannot load the model 'team/model': no such repository$"),
        models.loading("the model 'team/model'", "team/model"),
    ):
        raise OSError("no such repository\nmore")


def test_an_error_without_a_message_still_has_a_first_line() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 300
