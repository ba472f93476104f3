"""The backend `vllm`: models in vLLM engines, each of which runs in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from batchroute.errors import InputError
from batchroute.generators.backend import Backend, check_weights

if TYPE_CHECKING:
    from batchroute.generators.base import Generator
    from batchroute.generators.settings import ModelSpec


def _load(spec: ModelSpec, device: object, gpus: Sequence[int] | None) -> Generator:
    from batchroute.generators.vllm.generator import VllmGenerator

    return VllmGenerator(spec, gpus)


def _check(spec: ModelSpec) -> str:
    from batchroute.generators.vllm.interpreter import interpreter_of

    if spec.python is not None:
        interpreter_of(spec.python)
    return check_weights(spec)


def _runs_on_cpu(spec: ModelSpec) -> bool:
    from batchroute.generators.vllm.interpreter import interpreter_of

    try:
        return interpreter_of(spec.python).on_cpu
    except InputError:
        # Where vLLM is not installed at all, the check of the extras says so.
        return False


def _gpus(spec: ModelSpec) -> int:
    of_a_copy = int(spec.engine.get("tensor_parallel_size", spec.tensor_parallel))
    return of_a_copy * int(spec.engine.get("pipeline_parallel_size", 1)) * spec.data_parallel


_SPEED = frozenset({"tensor_parallel", "data_parallel", "engine", "python", "trust_remote_code"})
# Arguments of vLLM's `LLM` for speed, place, memory and messages. All others may change answers.
_ENGINE_SPEED = frozenset(
    {
        *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel"),
        *("distributed_executor_backend", "disable_custom_all_reduce", "max_parallel_loading_workers"),
        *("numa_bind", "numa_bind_nodes", "numa_bind_cpus", "device_ids"),
        *("gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "block_size", "swap_space"),
        *("cpu_offload_gb", "cpu_offload_params", "offload_backend", "offload_params"),
        *("max_num_seqs", "max_num_batched_tokens", "max_num_scheduled_tokens", "max_num_partial_prefills"),
        *("max_long_partial_prefills", "long_prefill_token_threshold", "enable_chunked_prefill"),
        *("enable_prefix_caching", "prefix_caching_hash_algo", "scheduling_policy", "async_scheduling"),
        *("enforce_eager", "compilation_config", "cudagraph_capture_sizes", "max_cudagraph_capture_size"),
        *("max_loras", "max_lora_rank", "max_cpu_loras", "fully_sharded_loras"),
        *("download_dir", "load_format", "model_loader_extra_config", "ignore_patterns", "hf_token"),
        *("safetensors_load_strategy", "use_tqdm_on_load", "disable_log_stats", "kv_cache_metrics"),
        *("show_hidden_metrics_for_version", "otlp_traces_endpoint", "collect_detailed_traces", "cudagraph_metrics"),
    }
)

BACKENDS = (
    Backend(
        name="vllm",
        settings=_SPEED | {"dtype", "quantization", "adapter", "chat_template_kwargs"},
        speed=_SPEED,
        engine_speed=_ENGINE_SPEED,
        holds_weights=True,
        logprobs=True,
        samples=True,
        check=_check,
        load=_load,
        gpus=_gpus,
        needs_gpu=True,
        runs_on_cpu=_runs_on_cpu,
        shares_memory=True,
        # vLLM works on hundreds of rows at a time, and waits for the last of them at the end of each unit.
        fewest_rows=4096,
        extras=lambda spec: {} if spec.python else {"vllm": "backend is vllm"},
    ),
)
