"""What each command imports: who looks at a run, or checks a job, must not wait for libraries of models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.generators.transformers.tiny_generators import tiny_decoder
from tests.support.jobs import JobFolder, table
from tests.support.tiny_models import tiny_router

MODELS = {"torch", "transformers", "tokenizers", "accelerate", "safetensors.torch", "openai"}
# Of tables, buckets, schemas and reports that the job does not have.
OTHERS = {"polars", "pandas", "pyarrow.dataset", "fsspec", "aiohttp", "jsonschema", "jinja2", "matplotlib", "ray"}
TABLES = {"numpy", "pyarrow"}
# Takes longer than the rest of pyarrow.
COMPUTE = {"pyarrow.compute", "pyarrow.csv"}
SETTINGS = {"batchroute.config.job", "yaml"}
UNWANTED = {
    "--help": MODELS | OTHERS | TABLES | SETTINGS | {"pydantic"},
    "status": MODELS | OTHERS | TABLES | SETTINGS,
    "verify": MODELS | OTHERS | SETTINGS | COMPUTE,
    "validate": MODELS | OTHERS | COMPUTE | {"rich.progress", "tenacity", "urllib.request"},
    "validate weights": (MODELS | OTHERS | COMPUTE) - {"jinja2"},
    # Up to the first request, of a job without a router, and of one with a router.
    "run": (MODELS | OTHERS) - {"openai", "aiohttp", "jinja2"},
    "route": {"transformers", "accelerate", "huggingface_hub", "torch._dynamo", "sympy", "scipy", "sklearn", "polars"},
}
# One process for all, the lightest command first: each adds to what is imported already.
SCRIPT = """
import http.server, json, sys, threading
from batchroute import cli

runs = iter(["run", "route"])

def tell(name):
    print("\\nimported:", json.dumps([name, *sys.modules]), flush=True)

class Endpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        tell(next(runs))
        self.send_error(401)

commands, jobs = json.loads(sys.argv[1])
for name, arguments in commands:
    sys.argv = ["batchroute", name.split()[0], *arguments]
    assert cli.command() == 0, arguments
    tell(name)
server = http.server.HTTPServer(("127.0.0.1", 0), Endpoint)
threading.Thread(target=server.serve_forever, daemon=True).start()
for job in jobs:
    sys.argv = ["batchroute", "run", job, "--set", f"models.small.endpoint=http://127.0.0.1:{server.server_port}/v1"]
    assert cli.command() == 2
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The modules that are there once a command is done."""
    folder = JobFolder(tmp_path_factory.mktemp("job"), table(40))
    folder.run()
    endpoints = tmp_path_factory.mktemp("endpoints")
    model = {"backend": "openai", "endpoint": "http://127.0.0.1:1/v1", "model": "any"}
    settings = {
        "input": {"uri": str(folder.input), "prompt": "prompt"},
        "output": {"uri": str(endpoints / "out")},
        "policy": {"small_share": "50%", "decide": "after"},
        "models": {"small": model, "large": model},
    }
    (endpoints / "job.json").write_text(json.dumps(settings))
    settings |= {"policy": {"small_share": "50%"}, "router": {"model": str(tiny_router(endpoints / "router"))}}
    settings["output"] = {"uri": str(endpoints / "routed")}
    (endpoints / "routed.json").write_text(json.dumps(settings))
    decoder = tiny_decoder(tmp_path_factory.mktemp("decoder"), chat=True)
    weights = [f"models.{side}={{backend: transformers, model: {decoder}}}" for side in ("small", "large")]
    changes = [f"--set={one}" for one in (*weights, f"output.uri={endpoints / 'weights'}")]
    commands = [
        ("--help", []),
        ("status", [str(folder.output)]),
        ("verify", [str(folder.output)]),
        # Of both jobs without weights the first one's modules are among the second one's.
        ("validate", [str(endpoints / "job.json")]),
        ("validate", [folder.path]),
        ("validate weights", [folder.path, *changes]),
    ]
    jobs = [str(endpoints / name) for name in ("job.json", "routed.json")]
    run = [sys.executable, "-c", SCRIPT, json.dumps([commands, jobs])]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "Usage: batchroute" in done.stdout
    assert "ok: 40 rows: id and prompt as in the input" in done.stdout
    lines = [json.loads(line.removeprefix("imported: ")) for line in done.stdout.splitlines() if "imported: " in line]
    return {command: set(modules) for command, *modules in lines}


@pytest.mark.parametrize("command", UNWANTED)
def test_a_command_imports_nothing_that_it_does_not_need(command: str, imported: dict[str, set[str]]) -> None:
    assert "batchroute.cli" in imported[command]
    assert not UNWANTED[command] & imported[command]
