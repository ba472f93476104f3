"""A stand-in for vLLM 0.33: its signatures, and of a model no more than the shapes of what one gives back.

Tests put the folder above on PYTHONPATH. A token is a word, and a response repeats the prompt and names the seed. Words
in a prompt make things go wrong: RAISE (the call raises before anything is generated, and what it asked for before
stays in the engine, as in vllm-project/vllm#26081), DIE (the engine dies, and prints the prompt), KILL (so does the
process), HANG (the engine's process is killed, and the call waits for it), SLEEP (for minutes), ABORT (its response
ends so). STAND_IN_DIES, an environment variable, makes every call die. What happened is recorded in the folder that
STAND_IN_RECORD names, a file a process.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jinja2 import TemplateError

from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams"]

__version__ = "0.33.0"

ROLES = ("system", "user", "assistant")
_ENGINE_ARGUMENTS = {
    *("max_model_len", "load_format", "enable_prefix_caching", "enable_lora", "max_loras", "max_lora_rank"),
    *("pipeline_parallel_size", "data_parallel_size", "max_num_seqs", "max_num_batched_tokens", "kv_cache_dtype"),
    "enable_chunked_prefill",
    *("logprobs_mode", "disable_log_stats", "distributed_executor_backend", "speculative_config", "generation_config"),
}


class EngineDeadError(Exception):
    """As in `vllm.v1.engine.exceptions`."""

    def __init__(self) -> None:
        super().__init__("EngineCore encountered an issue. See stack trace (above) for the root cause.")


@dataclasses.dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None = None
    logprobs: Any = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclasses.dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    outputs: list[CompletionOutput]
    finished: bool = True
    num_cached_tokens: int | None = None


class Tokenizer:
    """What the backend uses of `TokenizerLike`."""

    all_special_tokens = ("<s>", "<end>")

    def __init__(self, chat: bool) -> None:
        self.chat_template = "a template" if chat else None
        self.words: list[str] = []

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Words of the last response, whose tokens are their places."""
        return " ".join(self.words[token] for token in ids)

    def get_vocab(self) -> dict[str, int]:
        return {"<s>": 0, "<end>": 7}

    def encode(
        self, text: str, truncation: bool | None = None, max_length: int | None = None, add_special_tokens: bool = True
    ) -> list[int]:
        return [0] * add_special_tokens + [len(word) for word in text.split()]

    def apply_chat_template(
        self,
        messages: list[dict[str, str]],
        tools: None = None,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
    ) -> str:
        assert not tokenize
        unknown = [message["role"] for message in messages if message["role"] not in ROLES]
        if unknown:
            raise TemplateError(f"unknown role: {unknown[0]}")
        said = "".join(f"<{message['role']}> {message['content']} " for message in messages)
        return said + "<assistant>" * add_generation_prompt


class LLM:
    """The arguments of vLLM's own; those in `kwargs` are of its `EngineArgs`."""

    def __init__(
        self,
        model: str,
        *,
        runner: str = "auto",
        convert: str = "auto",
        tokenizer: str | None = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        chat_template: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        cpu_offload_gb: float = 0,
        enforce_eager: bool = False,
        hf_token: bool | str | None = None,
        hf_overrides: Any = None,
        structured_outputs_config: Any = None,
        compilation_config: Any = None,
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            if name not in _ENGINE_ARGUMENTS:
                raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument '{name}'")
        if not (Path(model) / "config.json").exists():
            raise OSError(f"Can't load the configuration of '{model}'.\nMore about that.")
        if quantization == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if quantization == "too-large":
            print("(EngineCore pid=1) ERROR 11-24 20:00:00 [core.py:700] EngineCore failed to start.", file=sys.stderr)
            print(
                "(EngineCore pid=1) ERROR 11-24 20:00:00 [core.py:700] torch.OutOfMemoryError: CUDA out of memory.",
                file=sys.stderr,
            )
            raise RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
        # As vLLM's engine core: a process of its own, which ends with this one when that has the time to say so.
        self._core = subprocess.Popen(["VLLM::EngineCore", "600"], executable=shutil.which("sleep"))
        atexit.register(self._core.terminate)
        context = kwargs.get("max_model_len", 64)
        self.llm_engine = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=context), add_lora=lambda request: self._add_lora(request)
        )
        self._lora = kwargs.get("enable_lora", False)
        self._tokenizer = Tokenizer(chat=not (Path(model) / "plain").exists())
        self._queue: list[tuple[str, str, SamplingParams]] = []
        self._asked = 0
        self._dead = False
        self._record(
            "load",
            model=model,
            core=self._core.pid,
            gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
            logging=os.environ.get("VLLM_LOGGING_LEVEL"),
            arguments={
                "dtype": dtype,
                "quantization": quantization,
                "tensor_parallel_size": tensor_parallel_size,
                "trust_remote_code": trust_remote_code,
                "gpu_memory_utilization": gpu_memory_utilization,
                **kwargs,
            },
            heavy=[name for name in ("torch", "transformers") if name in sys.modules],
        )
        print("INFO a chatty line")

    def get_tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def generate(
        self,
        prompts: Sequence[str],
        sampling_params: Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
        priority: list[int] | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        return self._run("generate", list(prompts), sampling_params, use_tqdm, lora_request, special=True)

    def chat(
        self,
        messages: Sequence[list[dict[str, str]]],
        sampling_params: Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
        priority: list[int] | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        texts = [
            self._tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True) for each in messages
        ]
        return self._run("chat", texts, sampling_params, use_tqdm, lora_request, special=False)

    def _run(
        self,
        call: str,
        texts: list[str],
        params: Sequence[SamplingParams] | None,
        use_tqdm: bool,
        lora_request: LoRARequest | None,
        special: bool,
    ) -> list[RequestOutput]:
        assert params is not None
        assert len(params) == len(texts)
        assert not use_tqdm
        self._record(
            call,
            texts=texts,
            params=[dataclasses.asdict(each) for each in params],
            lora=lora_request and dataclasses.asdict(lora_request),
        )
        if self._dead:
            raise EngineDeadError
        for text, each in zip(texts, params, strict=True):
            if "RAISE" in text:
                raise ValueError("this prompt is not to vLLM's taste")
            self._queue.append((str(self._asked), text, each))
            self._asked += 1
        for _, text, _ in self._queue:
            if "DIE" in text or "STAND_IN_DIES" in os.environ:
                self._dead = True
                print("RuntimeError: CUDA error: device-side assert triggered", file=sys.stderr)
                print(f"ValueError: cannot read {text}", file=sys.stderr)
                raise EngineDeadError
            if "KILL" in text:
                os.kill(os.getpid(), signal.SIGKILL)
            if "HANG" in text:
                self._core.kill()
            if "SLEEP" in text or "HANG" in text:
                time.sleep(600)
        done = [self._output(request, text, each, special) for request, text, each in self._queue]
        self._queue.clear()
        return done

    def _output(self, request: str, text: str, params: SamplingParams, special: bool) -> RequestOutput:
        assert params.max_tokens is not None
        words = [*text.split(), f"seed={params.seed}"]
        said = words[: params.max_tokens]
        reason = "abort" if "ABORT" in text else "length" if len(said) < len(words) else "stop"
        completion = CompletionOutput(0, " ".join(said), tuple(range(len(said))), finish_reason=reason)
        self._tokenizer.words = said
        for stop in params.stop or []:
            before, found, _ = completion.text.partition(stop)
            if found:
                completion.text, completion.finish_reason, completion.stop_reason = before, "stop", stop
        if params.logprobs is not None:
            # Of the token at a place: minus a tenth of it.
            completion.logprobs = [{token: SimpleNamespace(logprob=-token / 10)} for token in completion.token_ids]
        tokens = self._tokenizer.encode(text, add_special_tokens=special)
        return RequestOutput(request, text, tokens, [completion], num_cached_tokens=2 if special else None)

    def _add_lora(self, request: LoRARequest) -> bool:
        if not self._lora:
            raise RuntimeError("LoRA is not enabled.")
        if "broken" in request.lora_path:
            raise Exception("Call to add_lora method failed: the adapter is for another model")
        return True

    def _record(self, what: str, **facts: Any) -> None:
        folder = os.environ.get("STAND_IN_RECORD")
        if folder is not None:
            with (Path(folder) / str(os.getpid())).open("a") as file:
                print(json.dumps({"what": what, "pid": os.getpid(), "time": time.time(), **facts}), file=file)
