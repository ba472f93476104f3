"""The engines that `generation --against` compares with, each in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil
import torch

from batchroute import models

_WORKER = Path(__file__).with_name("generation_in_vllm.py")
# Slots of llama.cpp's server, whose rows share batches, and the tokens of each.
_SLOTS, _SLOT_TOKENS = 16, 4096
_START_SECONDS = 120


class Call(NamedTuple):
    """A call's seconds by the clock and of the processor, the tokens that were written, and the texts."""

    wall: float
    processor: float
    tokens: int
    texts: list[str]


class Way(Protocol):
    """An engine with a model in memory."""

    name: str

    def answer(self, prompts: list[str], new_tokens: int) -> Call: ...

    def close(self) -> None: ...


class Vllm:
    """vLLM in its own interpreter."""

    def __init__(self, arguments: argparse.Namespace, dtype: str) -> None:
        self.name = f"vLLM {dtype}" + (" compiled" if arguments.compiled else "")
        command = [arguments.vllm_python, str(_WORKER), models.resolve(arguments.model), dtype]
        # In one process, so that its processor seconds can be counted; with one thread it need not choose a core.
        environment = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"} | os.environ
        if os.environ.get("OMP_NUM_THREADS") == "1":
            environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        self._worker = subprocess.Popen(
            command + ["--compiled"] * arguments.compiled,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            stderr=None if arguments.verbose else subprocess.DEVNULL,
        )  # fmt: skip
        self._line()

    def answer(self, prompts: list[str], new_tokens: int) -> Call:
        assert self._worker.stdin is not None
        print(json.dumps({"prompts": prompts, "new_tokens": new_tokens}), file=self._worker.stdin, flush=True)
        return Call(**self._line())

    def close(self) -> None:
        self._worker.communicate()

    def _line(self) -> dict[str, Any]:
        assert self._worker.stdout is not None
        line = self._worker.stdout.readline()
        if not line:
            raise SystemExit("vLLM did not start: --verbose shows why")
        found: dict[str, Any] = json.loads(line)
        return found


class LlamaCpp:
    """llama.cpp's own server with a model of a GGUF file, asked for all answers at once."""

    def __init__(self, arguments: argparse.Namespace, gguf: Path) -> None:
        self.name = f"llama.cpp {gguf.stem}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._server = subprocess.Popen(
            [arguments.llama_server, "-m", gguf, "--port", str(port), "-t", str(torch.get_num_threads()),
             "-np", str(_SLOTS), "-c", str(_SLOTS * _SLOT_TOKENS), "--cache-ram", "0"],
            stdout=subprocess.DEVNULL, stderr=None if arguments.verbose else subprocess.DEVNULL,
        )  # fmt: skip
        ends = time.monotonic() + _START_SECONDS
        while not self._ready():
            if self._server.poll() is not None or time.monotonic() > ends:
                raise SystemExit("llama.cpp did not start: --verbose shows why")
            time.sleep(0.2)

    def answer(self, prompts: list[str], new_tokens: int) -> Call:
        wall, processor = time.perf_counter(), self._processor()
        with ThreadPoolExecutor(len(prompts)) as threads:
            found = list(threads.map(lambda prompt: self._ask(prompt, new_tokens), prompts))
        wall, processor = time.perf_counter() - wall, self._processor() - processor
        texts = [one["choices"][0]["message"]["content"] for one in found]
        return Call(wall, processor, sum(one["usage"]["completion_tokens"] for one in found), texts)

    def close(self) -> None:
        self._server.terminate()
        self._server.wait()

    def _ask(self, prompt: str, new_tokens: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        body = {"messages": messages, "max_tokens": new_tokens, "temperature": 0, "cache_prompt": False}
        request = urllib.request.Request(
            f"{self._url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self._url}/health"):
            return True
        return False

    def _processor(self) -> float:
        times = psutil.Process(self._server.pid).cpu_times()
        return times.user + times.system
