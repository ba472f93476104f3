"""Access to an endpoint: keys that change in the night, headers, parameters of the URL, organisations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from batchroute.errors import InputError
from batchroute.generators.openai.failures import ModelEndpoint
from tests.generators.openai.openai_generators import generator, spec
from tests.support.openai_server import OpenAIServer


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as found:
        yield found


def test_a_key_that_ended_in_the_night_is_read_again(server: OpenAIServer, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-test\n")
    with generator(server, api_key_file=str(file)) as asked:
        asked.generate(["a"], [0])
        server.settings.key = "sk-new"
        file.write_text("sk-new\n")
        answers = asked.generate([f"row {number}" for number in range(20)], range(20))
        assert all(answer.text is not None for answer in answers)
        # One that stays refused ends the run, and so does a file that is gone.
        server.settings.key = "sk-newer"
        with pytest.raises(InputError, match=f"refuses the key in the file {file}"):
            asked.generate(["b"], [0])
    with generator(server, api_key_file=str(file)) as asked:
        file.unlink()
        with pytest.raises(InputError, match="cannot be read"):
            asked.generate(["b"], [0])


def test_headers_and_parameters_go_with_every_request(server: OpenAIServer) -> None:
    server.settings.key = None
    headers = {"api-key": "azure-secret", "Authorization": None}
    with generator(
        server, headers=headers, query={"api-version": "2026-01-01"}, organization="org-1", project="proj-1"
    ) as asked:
        asked.generate(["a"], [0])
    (seen,) = server.requests
    assert "authorization" not in seen.headers
    assert seen.headers["api-key"] == "azure-secret"
    assert (seen.headers["openai-organization"], seen.headers["openai-project"]) == ("org-1", "proj-1")
    assert seen.query == {"api-version": "2026-01-01"}


def test_secret_headers_and_keys_are_hidden(server: OpenAIServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-of-a-file")
    headers = {"api-key": "azure-secret", "X-Team": "search"}
    endpoint = ModelEndpoint(spec(endpoint=server.url, headers=headers, api_key_file=str(tmp_path / "key")))
    assert endpoint.redactor.text("azure-secret sk-of-a-file search") == "*** *** search"


def test_a_key_has_one_place() -> None:
    with pytest.raises(ValidationError, match="api_key_env and api_key_file each say where the key is"):
        spec(api_key_env="X", api_key_file="y")
