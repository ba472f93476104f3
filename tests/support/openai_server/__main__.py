"""The stand-in server as a process: `python -m tests.support.openai_server --state DIR --port N [--faults FILE]`."""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from tests.support.openai_server.server import OpenAIServer
from tests.support.openai_server.settings import Settings

_LISTS = ("models", "extra_fields", "held")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tests.support.openai_server", description="Every setting's value is JSON or a text."
    )
    parser.add_argument("--state", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", type=Path)
    names = [one.name for one in fields(Settings) if one.name != "answer"]
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", type=_value, default=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    state, port, faults = given.pop("state"), given.pop("port"), given.pop("faults")
    for name in _LISTS:
        if isinstance(given.get(name), str):
            given[name] = given[name].split(",")
    server = OpenAIServer(state, port, faults, **given)
    asyncio.run(server.run(lambda: print(server.url, flush=True)))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
