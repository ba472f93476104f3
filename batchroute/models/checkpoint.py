"""Whether a checkpoint is what it is used for: a generator or an encoder, with all weights and no others.

transformers fills weights that a checkpoint lacks at random and leaves out those that it does not know, with a warning
that a log hides: the model then writes or measures nonsense that looks like a result.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from batchroute.errors import InputError

_MOST_NAMES = 3
# Computed when a model is made, or always zero: some checkpoints hold them and some do not.
_BUFFERS = re.compile(
    r"(rotary_emb\.inv_freq|rotary_pos_emb\.inv_freq|position_ids|token_type_ids|masked_bias|attn\.bias"
    r"|attention\.bias|embed_positions\.weights|final_logits_bias)$"
)
# A pooler is read by no metric: embeddings are means over tokens.
_POOLERS = re.compile(r"(^|\.)pooler\.")
_OTHER_TASKS = re.compile(
    r"For(MaskedLM|SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice|NextSentencePrediction"
    r"|ImageClassification|AudioClassification|CTC|Retrieval|MaskGeneration|ObjectDetection)$"
)


def generator_class(config: Any, what: str) -> Any:
    """The class of transformers that loads a generator of this configuration.

    Checkpoints for text and images or sound are loaded for their text: the language model alone where transformers has
    it, else the whole model.

    Args:
        config: a `PreTrainedConfig`.
        what: the model, as a sentence names it.

    Raises:
        InputError: the configuration is not of a generator of text.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForSeq2SeqLM

    check_generator(config, what)
    text: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    own = getattr(config, "auto_map", None) or {}
    for family in (text, AutoModelForMultimodalLM):
        if type(config) in family._model_mapping or family.__name__ in own:
            return family
    raise InputError(_no_generator(config, what))


def check_generator(config: Any, what: str) -> None:
    """Check what a configuration tells by itself, without the classes of models.

    Raises:
        InputError: it is of an encoder, or of a model with another task than to write text.
    """
    architectures = config.architectures or ()
    if architectures and all(_OTHER_TASKS.search(name) for name in architectures):
        raise InputError(_no_generator(config, what))
    # These encoders have a class that writes text, but their own attention sees the tokens that follow.
    if config.model_type in _encoders() and not (
        config.is_encoder_decoder or getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    ):
        raise InputError(_no_generator(config, what))


def _encoders() -> frozenset[str]:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    both = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() & MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    return frozenset(both - MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.keys())


def _no_generator(config: Any, what: str) -> str:
    kind = " and ".join(config.architectures or ()) or f"a model of type {config.model_type}"
    return (
        f"{what} is no generator of text: its configuration says {kind}; name a decoder such as a chat model, or an "
        "encoder-decoder"
    )


def check_loaded(what: str, model: Any, info: Mapping[str, Any], *, parts: bool = False) -> None:
    """Check that a model got all of its weights from its checkpoint, and the checkpoint held no others.

    Tied weights count once, and buffers that are computed may be missing.

    Args:
        what: the model, as a sentence names it.
        model: the loaded `PreTrainedModel`.
        info: from `from_pretrained(…, output_loading_info=True, ignore_mismatched_sizes=True)`.
        parts: the model is a part of its checkpoint (an encoder without its head, a language model without the part
            that sees images): weights of other parts may be there.

    Raises:
        InputError: weights are missing, unknown or of another shape; the first few are named.
    """
    shapes = sorted(info["mismatched_keys"], key=lambda entry: str(entry[0]))
    if shapes:
        shown = [f"{name} ({_shape(saved)} instead of {_shape(wanted)})" for name, saved, wanted in shapes]
        raise InputError(f"{what}: weights of its checkpoint have another shape than its configuration says: "
                         f"{_first(shown)}; {_ADVICE}")  # fmt: skip
    missing = {name for name in info["missing_keys"] if not _BUFFERS.search(name)}
    unknown = {name for name in info["unexpected_keys"] if not _BUFFERS.search(name)}
    if parts:
        missing = {name for name in missing if not _POOLERS.search(name)}
        unknown = {name for name in unknown if not _is_another_part(name, model)}
    if missing:
        raise InputError(f"{what}: its checkpoint lacks weights that {type(model).__name__} needs: {_first(missing)}; "
                         f"they would be random; {_ADVICE}")  # fmt: skip
    if unknown:
        raise InputError(f"{what}: its checkpoint has weights that {type(model).__name__} does not know: "
                         f"{_first(unknown)}; {_ADVICE}")  # fmt: skip


def check_adapter_weights(what: str, saved: Collection[str], wanted: Collection[str]) -> None:
    """Check that a LoRA adapter has all of its weights, and none that its model does not take.

    Args:
        what: the adapter and its model, as a sentence names them.
        saved, wanted: names of weights, of the file and of the model with the adapter. Only those of the adapter's own
            matrices count.

    Raises:
        InputError: weights are missing or unknown; the first few are named.
    """
    has, takes = ({name for name in names if "lora_" in name} for names in (saved, wanted))
    if takes - has:
        raise InputError(f"{what}: it lacks weights that the model takes: {_first(takes - has)}; {_OF_ADAPTER}")
    if has - takes:
        raise InputError(f"{what}: it has weights that the model does not take: {_first(has - takes)}; {_OF_ADAPTER}")


_OF_ADAPTER = "name the adapter's own base model, or save the adapter again"
_ADVICE = "save the whole model again with save_pretrained, or name another one"


def _is_another_part(name: str, model: Any) -> bool:
    """Whether a weight is in a module that the model does not have, near the top, and not a further layer."""
    # An encoder's checkpoint with a head names the encoder first.
    *path, _ = name.removeprefix(f"{model.base_model_prefix}." if model is model.base_model else "").split(".")
    for depth, part in enumerate(path):
        children = dict(model.named_children())
        if part not in children:
            return depth < 2 and not part.isdecimal()
        model = children[part]
    return False


def _first(names: Collection[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _MOST_NAMES
    return ", ".join(ordered[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def _shape(size: Any) -> str:
    return "×".join(str(length) for length in size) or "a number"
