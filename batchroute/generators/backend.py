"""What a backend is: one frozen record in the backend's own folder, found by its place or by an entry point."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal

from batchroute import generators, models

if TYPE_CHECKING:
    import torch

    from batchroute.generators.base import Generator

Spec = Any
"""A `ModelSpec`. Its file looks up the records, so it imports this one, and not the other way round."""

ENTRY_POINTS = "batchroute.backends"
"""The group of entry points by which other packages bring backends: `name = "module:RECORD"`."""


def _one_gpu(spec: Spec) -> int | None:
    return 1


def _never(spec: Spec) -> bool:
    return False


def _no_home(spec: Spec) -> Home | None:
    return None


def _no_problem(spec: Spec) -> str | None:
    return None


def _no_extras(spec: Spec) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Home:
    """A provider's own endpoint: its base URL, and the environment variable of its key."""

    url: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What the rest of the package needs to know of a backend.

    The folder `generators/NAME/` has the record in its `__init__.py`, as an entry of the tuple `BACKENDS`. That module
    is imported with the job file, so it imports torch and the like inside of functions only.

    Attributes:
        name: the value of `backend` in the job file.
        settings: the keys of `ModelSpec` that this backend reads, besides those that all backends read.
        speed: those of `settings` that change how fast or where rows are answered, and not the responses. They are not
            part of a run's identity.
        engine_speed: the same of the keys of `ModelSpec.engine`; None: `engine` is one setting.
        check: checks what can be checked without loading or asking the model; returns the model and its place in words,
            raises `InputError`.
        load: makes the generator. Takes the settings, a function that returns the process's device, and the numbers of
            the GPUs that the model may use (None: all that are visible). Raises `InputError`.
        holds_weights: the model's weights are loaded on this machine, so `model` is a directory, a hub id or an
            embedded model, and its files are part of a run's identity.
        behind_api: the model is behind an endpoint. One process asks it, since all processes share its rate limit.
        batches: opens the provider's batch API, whose answers may come in a later run; None: rows are answered at once.
            Takes the settings and, as `patience`, for how many seconds a call is retried.
        home: the endpoint that is asked unless the settings name one; None: OpenAI's.
        problem: what is wrong with the settings, in a sentence that names the key; None: nothing. It reads nothing but
            the settings.
        price_list: which of a provider's published prices apply; None: no provider publishes any.
        auto_dtype: the precision, as the key `dtype` names it, that `dtype: auto` takes on a device; raises
            `InputError`. None: it does not depend on the device.
        gpus: the number of GPUs that a rank or worker with the model needs; None: all of its machine.
        needs_gpu: the backend does not run on a CPU.
        runs_on_cpu: whether it does all the same, as it is installed for these settings.
        logprobs: the model gives the log-probabilities of its answers' tokens if `ModelSpec.confidence` asks for them.
        samples: the generator is a `Sampler` (`agreement.py`), so that `confidence.samples` can ask for extra answers.
        shares_memory: on several GPUs the model runs in processes that exchange data through shared memory.
        fewest_rows: the fewest rows of a unit of work that keep the model busy.
        any_settings: settings of other backends are accepted and ignored, for a dry run that replaces `backend` alone.
        extras: the extras of batchroute that the settings need, each with the key that needs it.
    """

    name: str
    settings: frozenset[str]
    check: Callable[[Spec], str]
    load: Callable[[Spec, Callable[[], torch.device], Sequence[int] | None], Generator]
    speed: frozenset[str] = frozenset()
    engine_speed: frozenset[str] | None = None
    holds_weights: bool = False
    behind_api: bool = False
    batches: Callable[..., Any] | None = None
    home: Callable[[Spec], Home | None] = _no_home
    problem: Callable[[Spec], str | None] = _no_problem
    price_list: Literal["standard", "batch"] | None = None
    auto_dtype: Callable[[Spec, torch.device], str] | None = None
    gpus: Callable[[Spec], int | None] = _one_gpu
    needs_gpu: bool = False
    runs_on_cpu: Callable[[Spec], bool] = _never
    logprobs: bool = False
    samples: bool = False
    shares_memory: bool = False
    fewest_rows: int = 1
    any_settings: bool = False
    extras: Callable[[Spec], Mapping[str, str]] = _no_extras


@functools.cache
def own_backends() -> dict[str, Backend]:
    """The records of the folders next to this file, by name."""
    folders = [module.name for module in pkgutil.iter_modules(generators.__path__) if module.ispkg]
    modules = [importlib.import_module(f"{generators.__name__}.{folder}") for folder in sorted(folders)]
    return {backend.name: backend for module in modules for backend in module.BACKENDS}


def names() -> list[str]:
    """The names of all backends, those of other packages last."""
    return [*own_backends(), *sorted(entry_points(group=ENTRY_POINTS).names - own_backends().keys())]


@functools.cache
def backend_of(name: str) -> Backend:
    """The record of a backend.

    Raises:
        KeyError: there is no backend of that name.
        ValueError: another package names the backend, and its record cannot be imported.
    """
    if name in own_backends():
        return own_backends()[name]
    (entry, *_) = entry_points(group=ENTRY_POINTS, name=name) or (None,)
    if entry is None:
        raise KeyError(name)
    try:
        record = entry.load()
    except Exception as error:
        raise ValueError(f"the backend {name} ({entry.value}) cannot be imported: {error}") from error
    if not isinstance(record, Backend) or record.name != name:
        raise ValueError(f"{entry.value} is no batchroute backend named {name}")
    return record


def check_weights(spec: Spec) -> str:
    """The check of a backend that loads weights: the files of the model and of its adapter.

    Raises:
        InputError: the model or the adapter is not there, `spec` does not allow to load it, or it writes no text.
    """
    models.check(spec.model, generator=True, trust_remote_code=spec.trust_remote_code, allow_pickle=spec.allow_pickle)
    if spec.adapter is not None:
        models.check_adapter(spec.adapter, spec.allow_pickle)
    return str(spec.model)
