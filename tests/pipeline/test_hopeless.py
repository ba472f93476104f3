"""A model that fails on every row alike stops its run; rows that fail among others do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from batchroute import generators
from batchroute.errors import StoppedError
from batchroute.generators.base import Response
from batchroute.generators.echo.generator import EchoGenerator
from batchroute.generators.prompting import TEMPLATE_REFUSED
from batchroute.pipeline.stages.generate import stop_if_hopeless
from batchroute.prompt import Prompt
from tests.support.jobs import JobFolder, table

GOOD = Response("fine", "stop")
BROKEN = Response(error_type="model_error", error="wrong key")
REFUSED = Response(error_type="bad_chat", error=f"{TEMPLATE_REFUSED}: roles must alternate")


def stops(responses: list[Response], answered: bool = False) -> bool:
    try:
        stop_if_hopeless("m", responses, lambda: "a prompt", lambda: answered)
    except StoppedError:
        return True
    return False


@pytest.mark.parametrize(
    ("responses", "answered", "expected"),
    [
        ([BROKEN] * 19, False, False),
        ([BROKEN] * 20, False, True),
        ([BROKEN] * 99, True, False),
        ([BROKEN] * 100, True, True),
        ([*[BROKEN] * 50, GOOD], False, False),
        ([*[BROKEN] * 50, Response(error_type="model_error", error="another")], False, False),
        ([REFUSED] * 20, False, True),
        # After an answer, the chats are to blame.
        ([REFUSED] * 500, True, False),
        ([Response(error_type="bad_chat", error="message 0 holds image_url, which is no text")] * 500, False, False),
        ([Response(error_type="too_long", error="too long")] * 500, False, False),
        ([], False, False),
    ],
)
def test_enough_rows_that_fail_alike_are_hopeless(responses: list[Response], answered: bool, expected: bool) -> None:
    assert stops(responses, answered) is expected


@pytest.mark.parametrize("unit", [30, 8])
def test_a_short_run_is_stopped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: int) -> None:
    class Broken(EchoGenerator):
        def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Response]:
            return [BROKEN for _ in prompts]

    folder = JobFolder(tmp_path, table(30), units={"generate": unit}, policy={"threshold": 0})
    with monkeypatch.context() as patch:
        patch.setattr(generators, "load", lambda spec, device, gpus: Broken(spec))
        with pytest.raises(StoppedError, match=r"all \d+ rows of a piece failed alike on the model 'echo-small'"):
            folder.run()
    assert not (folder.output / "manifest.json").exists()
