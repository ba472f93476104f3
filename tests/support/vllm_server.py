"""`vllm serve` with one model on this machine's CPU, out of an environment of its own (`jobs/environment.sh vllm`)."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.support.transformers_server import TransformersServer


class VllmServer(TransformersServer):
    """As the server of transformers: the model's name in requests is its folder."""

    _patience = 900.0

    def __init__(self, python: Path, model: Path) -> None:
        super().__init__(model)
        self._python = python

    def kill(self) -> None:
        engine = [] if self._process is None else psutil.Process(self._process.pid).children(recursive=True)
        super().kill()
        for process in engine:
            process.kill()

    def _command(self) -> list[str]:
        program = self._python.with_name("vllm")
        address = ["--host=127.0.0.1", f"--port={self.port}"]
        small = ["--dtype=float32", "--enforce-eager", "--max-model-len=256", "--max-num-seqs=8"]
        return [str(program), "serve", self.model, *address, *small]
