"""The precision that each model of a run computes in: chosen once, and kept by whoever goes on with the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from batchroute.config.job import JobModel
from batchroute.fields import SIDES, Side
from batchroute.pipeline import layout
from batchroute.progress import Progress
from batchroute.storage.workdir import Workdir

if TYPE_CHECKING:
    import torch

_OF_EARLIER_VERSIONS = "float32"


def fixed(
    work: Workdir,
    side: Side,
    model: JobModel,
    device: Callable[[], torch.device],
    progress: Progress,
    shards: Sequence[str],
) -> JobModel:
    """The model with the precision of this run in place of `dtype: auto`.

    Answers differ between precisions, and `auto` takes another one on another kind of machine. So the first worker that
    loads a model writes its choice into the work folder, and all others take that one: ranks, machines of a cluster,
    later attempts.

    Args:
        shards: the stages with the model's answers. A run that an earlier version began has some and no choice; that
            version took float32 on a CPU, and its run goes on in it.
    """
    auto = model.record.auto_dtype
    if auto is None or model.dtype != "auto":
        return model
    best, name = auto(model, device()), layout.PRECISION.format(side=side)
    if work.read_json(name) is None:
        earlier = device().type == "cpu" and any(work.folder.folder(shard).names("") for shard in shards)
        work.put_json(name, {"dtype": _OF_EARLIER_VERSIONS if earlier else best})
    taken = precisions(work)[side]
    words = f"the {side} model computes in {taken} (dtype: auto)"
    if taken != best:
        words = f"the {side} model computes in {taken}, in which this run began; here {best} would be faster"
    progress.note("precision", words, side=side, dtype=taken)
    return model.model_copy(update={"dtype": taken})


def precisions(work: Workdir) -> dict[Side, str]:
    """What `dtype: auto` took in this run, by model; models that did not load or have a `dtype` of their own lack."""
    chosen = {side: work.read_json(layout.PRECISION.format(side=side)) for side in SIDES}
    return {side: str(tree["dtype"]) for side, tree in chosen.items() if tree is not None}
