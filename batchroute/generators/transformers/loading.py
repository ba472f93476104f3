"""The weights, tokenizer and configuration of one model of the `transformers` backend, on its devices."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from batchroute import models
from batchroute.errors import InputError
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers.layers import pack
from batchroute.hardware.devices import precision
from batchroute.models.checkpoint import check_adapter_weights, check_loaded, generator_class
from batchroute.models.configuration import largest_matrix, saved_precision, setting, text_config

_QUANTIZATIONS = ("int8", "nf4", "fp4")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to generate.

    Attributes:
        model: a `PreTrainedModel`. An adapter is merged into it, or stays separate if the weights are quantised.
        device: the device of the model's inputs.
        devices: all devices that have weights.
        encoder_decoder: whether an encoder reads the prompt.
        context: the most tokens of prompt and response together (of an encoder-decoder: of the prompt alone); None:
            no limit is known.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    device: torch.device
    devices: tuple[torch.device, ...]
    encoder_decoder: bool
    context: int | None


def load(spec: ModelSpec, device: torch.device, gpus: Sequence[int] | None = None) -> Loaded:
    """Load the model of `spec`: from safetensors only, and without the model's own code, unless `spec` allows them.

    Args:
        gpus: the GPUs that the model may be spread over; all visible ones unless set.

    Raises:
        InputError: the model or its adapter is not there, cannot be loaded, needs a package that is not installed,
            needs pickles or code that `spec` does not allow, is no generator of text, or lacks weights or has others.
    """
    what = f"the model '{spec.model}'"
    path = models.resolve(spec.model)
    adapter = None if spec.adapter is None else models.resolve(spec.adapter, adapter=True)
    _ensure_packages(spec)
    trust = {"trust_remote_code": spec.trust_remote_code}
    with models.loading(what, path, allow_pickle=spec.allow_pickle):
        config = AutoConfig.from_pretrained(path, **trust)
        family = generator_class(config, what)
        tokenizer = AutoTokenizer.from_pretrained(path, **trust)
        dtype = _precision(spec, config, device)
        placed = _placement(spec, config, device, dtype, gpus)
        with models.quiet_transformers():
            loaded = family.from_pretrained(
                path,
                dtype=dtype,
                use_safetensors=models.safetensors(spec.allow_pickle),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `check_loaded` says which; the library only that there are some.
                **trust,
                **placed,
            )
        model: Any = loaded[0]
        check_loaded(what, model, loaded[1], parts=_is_part(model, config))
        if model.main_input_name != "input_ids":
            raise InputError(f"{what} reads {model.main_input_name} and not text alone: name a model that reads text")
        if not placed:
            model = model.to(device)
        devices = devices_of(model)
    if adapter is not None:
        what = f"the adapter '{spec.adapter}' of the model '{spec.model}'"
        with models.loading(what, adapter, allow_pickle=spec.allow_pickle):
            model = _adapted(model, adapter, devices[0], spec, what)
    context = setting(text_config(config), "max_position_embeddings")
    model.eval()
    pack(model)
    return Loaded(model, tokenizer, config, devices[0], devices, bool(config.is_encoder_decoder), context)


def auto_dtype(spec: ModelSpec, device: torch.device) -> str:
    """The precision that `dtype: auto` takes on this device, as the job file names it; raises as `load`."""
    path = models.resolve(spec.model)
    with models.loading(f"the model '{spec.model}'", path, allow_pickle=spec.allow_pickle):
        config = AutoConfig.from_pretrained(path, trust_remote_code=spec.trust_remote_code)
    return str(_precision(spec, config, device)).removeprefix("torch.")


def _precision(spec: ModelSpec, config: PreTrainedConfig, device: torch.device) -> torch.dtype:
    # The products of weights of 8 and 4 bits have kernels of their own.
    saved = None if spec.quantization is not None and device.type == "cpu" else saved_precision(spec.model, config)
    return precision(spec.dtype, device, saved, largest_matrix(config))


def _is_part(model: Any, config: PreTrainedConfig) -> bool:
    """Whether the checkpoint was saved by another class: with parts that this one does without."""
    saved_by = config.architectures or ()
    return bool(saved_by) and type(model).__name__ not in saved_by


def _ensure_packages(spec: ModelSpec) -> None:
    if spec.quantization is not None:
        if spec.quantization not in _QUANTIZATIONS:
            raise InputError(
                f"quantization is '{spec.quantization}', but the backend transformers knows int8, nf4 and fp4"
            )
        if not _installed("bitsandbytes"):
            raise InputError("quantization needs a package: pip install 'batchroute[quantization]'")
        # In 8 bits bitsandbytes warns at every matrix product that it rounds to float16.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if spec.adapter is not None and not _installed("peft"):
        raise InputError("an adapter needs a package: pip install 'batchroute[adapters]'")


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # A stand-in without a specification.
        return False


def _placement(
    spec: ModelSpec,
    config: PreTrainedConfig,
    device: torch.device,
    dtype: torch.dtype,
    gpus: Sequence[int] | None = None,
) -> dict[str, Any]:
    """The arguments by which `from_pretrained` places the weights; empty if the caller moves them by `.to(device)`.

    Quantised weights cannot be moved: `from_pretrained` must create them on their device.
    """
    placed: dict[str, Any] = {}
    if spec.quantization == "int8":
        placed["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    elif spec.quantization is not None:
        placed["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True, bnb_4bit_quant_type=spec.quantization, bnb_4bit_compute_dtype=dtype
        )
    if spec.device_map is not None or spec.tensor_parallel > 1:
        placed["device_map"] = spec.device_map or "auto"
        if gpus is None and spec.tensor_parallel > 1:
            gpus = range(torch.cuda.device_count())[: spec.tensor_parallel]
        if gpus:
            # Devices without an entry get no weights. The CPU has none: its memory would be far too slow.
            placed["max_memory"] = {gpu: torch.cuda.mem_get_info(gpu)[0] for gpu in gpus}
    elif placed or getattr(config, "quantization_config", None) is not None:
        placed["device_map"] = {"": device}
    return placed


def devices_of(model: Any) -> tuple[torch.device, ...]:
    """The devices of a model, the one that takes its inputs first."""
    places = getattr(model, "hf_device_map", None) or {"": model.device}
    # Layers without room on a GPU stay on the CPU or the disk, and compute on the first GPU.
    devices = dict.fromkeys(_device(place) for place in places.values() if place != "disk")
    gpus = [device for device in devices if device.type != "cpu"]
    return tuple(gpus or devices or [model.device])


def _device(place: Any) -> torch.device:
    return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)


def _adapted(model: Any, path: str, device: torch.device, spec: ModelSpec, what: str) -> Any:
    """The model with the LoRA adapter at `path`.

    A merged adapter costs nothing per token. It is not merged into weights of 8 or 4 bits, which would round it to as
    few bits: there the layers add the adapter's product to their own, at each token.

    Raises:
        InputError: the adapter lacks weights or has others than this model takes.
    """
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
    from transformers.utils.hub import cached_file

    if not spec.allow_pickle and not Path(path).is_dir():
        # If the hub has no safetensors, peft would load a pickle; this call raises instead.
        cached_file(path, "adapter_model.safetensors")
    with warnings.catch_warnings():
        # peft only warns of the weights that `check_adapter_weights` refuses.
        warnings.simplefilter("ignore")
        adapted = PeftModel.from_pretrained(model, path, is_trainable=False, torch_device=str(device))
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    check_adapter_weights(what, load_peft_weights(path, device="cpu"), wanted)
    return adapted.get_base_model() if getattr(model, "is_quantized", False) else adapted.merge_and_unload()
