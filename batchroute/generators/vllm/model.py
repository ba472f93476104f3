"""One copy of a model on vLLM, in the worker's process."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from batchroute.errors import InputError, first_line
from batchroute.generators import thoughts
from batchroute.generators.base import Response
from batchroute.generators.prompting import ChatError, Renderer, chat, check_template
from batchroute.generators.settings import ModelSpec
from batchroute.generators.signals import of_tokens, tokens_of_text
from batchroute.generators.vllm.messages import Load, Row
from batchroute.prompt import HALF_A_PAIR, Prompt, as_text, has_half_a_pair

ADAPTER_ID = 1
# The most tokens that a tokenizer adds to a text: its beginning, its end, a leading space.
_ADDED_TOKENS = 8
# The most tokens at a prompt's end that a mark of thoughts and white space behind it take.
_LONGEST_MARK = 24


class EngineDiedError(Exception):
    """vLLM's engine is gone, with all rows that it was working on."""


class VllmModel:
    """One copy of the model.

    Raises:
        InputError: the settings do not fit the model.
        Exception: any error of vLLM, if it cannot load the model.
    """

    def __init__(self, load: Load) -> None:
        import vllm

        self._spec = ModelSpec.model_validate(load.settings)
        self._llm = vllm.LLM(**load.arguments, **self._for_seeds_on_a_cpu(load.arguments))
        self._new_params = vllm.SamplingParams
        self._context = int(self._llm.llm_engine.model_config.max_model_len)
        new = self._spec.generation.max_new_tokens
        if new >= self._context:
            raise InputError(
                f"generation.max_new_tokens is {new:,}, but the model '{self._spec.model}' has a context of "
                f"{self._context:,} tokens for prompt and response"
            )
        self._tokenizer = self._llm.get_tokenizer()
        # vLLM's tokenizer for Mistral's own format has its chat markup built in, without a template.
        templated = hasattr(self._tokenizer, "chat_template")
        self._renderer = Renderer(self._spec, self._tokenizer) if templated else None
        if templated:
            check_template(self._spec, self._tokenizer)
        # vLLM looks for stop strings in decoded text, which has no special tokens. Those stops are passed as tokens.
        special = set(self._tokenizer.all_special_tokens) & set(self._spec.generation.stop)
        template = getattr(self._tokenizer, "chat_template", None)
        self._thinks = template is not None and thoughts.known_to(str(template))
        self._shows_special = self._thinks and thoughts.special_among(self._tokenizer.all_special_tokens)
        self._stop_ids = [self._tokenizer.get_vocab()[stop] for stop in sorted(special)]
        self._adapter = None if load.adapter is None else self._load_adapter(load.adapter)

    @property
    def about(self) -> str:
        """vLLM and what it computes with: the versions that answers may depend on."""
        import vllm

        others = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers")]
        return f"vLLM {vllm.__version__} with {' and '.join(others)}"

    def answer(self, rows: Sequence[Row], send: Callable[[dict[int, Response]], None]) -> None:
        """Send a response for each of `rows`, some at a time.

        Raises:
            EngineDiedError: vLLM died. The rows whose response was not sent have none.
        """
        refused = {row.index: refusal for row in rows if (refusal := self._refusal(row.prompt)) is not None}
        send(refused)
        groups = [[row for row in rows if row.index not in refused]]
        while groups:
            group = groups.pop()
            try:
                send(self._generate(group))
            except Exception as error:
                if _says_that_it_died(error):
                    raise EngineDiedError from error
                if len(group) == 1:
                    send({group[0].index: Response(error_type="model_error", error=in_a_line(error, named=True))})
                else:
                    # vLLM raises for the whole call if one prompt is bad.
                    middle = len(group) // 2
                    groups += [group[middle:], group[:middle]]

    def _for_seeds_on_a_cpu(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments without which rows with seeds would end the engine on a CPU.

        After each chunk of a prompt but the last, vLLM sets the row's random numbers back, which torch cannot on a CPU.
        So prompts are not cut in chunks there.
        """
        from vllm.platforms import current_platform

        if not current_platform.is_cpu() or (self._spec.generation.greedy and not self._spec.samples):
            return {}
        if arguments.get("enable_chunked_prefill"):
            raise InputError(
                "engine.enable_chunked_prefill: on a CPU, vLLM cannot sample by seeds if it cuts prompts in chunks: "
                "leave it out"
            )
        return {} if "enable_chunked_prefill" in arguments else {"enable_chunked_prefill": False}

    def _load_adapter(self, adapter: str) -> Any:
        from vllm.lora.request import LoRARequest

        request = LoRARequest("adapter", ADAPTER_ID, adapter)
        try:
            # Loaded with the first prompts, a broken adapter would end the engine.
            self._llm.llm_engine.add_lora(request)
        except Exception as error:
            raise InputError(f"cannot load the adapter '{self._spec.adapter}': {in_a_line(error)}") from error
        return request

    def _refusal(self, prompt: Prompt) -> Response | None:
        """The response to a prompt that the model cannot take, which would fail a whole call of vLLM; else None."""
        try:
            text = as_text(prompt) if self._renderer is None else self._renderer.render(prompt)
            if has_half_a_pair(text):
                return Response(error_type="model_error", error=f"the tokenizer cannot read the prompt: {HALF_A_PAIR}")
            return None if self._renderer is None else self._too_long_or_empty(text)
        except ChatError as error:
            return Response(error_type="bad_chat", error=str(error))
        except Exception as error:
            return Response(error_type="model_error", error=in_a_line(error, named=True))

    def _too_long_or_empty(self, text: str) -> Response | None:
        assert self._renderer is not None
        new = self._spec.generation.max_new_tokens
        # A token has at least one byte of text, so most prompts are short enough without counting their tokens. If a
        # tokenizer's normalisation makes a text longer, vLLM refuses the row, which becomes a model_error.
        if text.strip() and len(text.encode()) + _ADDED_TOKENS + new <= self._context:
            return None
        tokens = len(self._tokenizer.encode(text, add_special_tokens=not self._renderer.chat))
        if tokens == 0:
            return Response(error_type="empty_prompt", error="the prompt has no tokens")
        if tokens + new <= self._context:
            return None
        return Response(
            input_tokens=tokens,
            error_type="too_long",
            error=f"{tokens:,} prompt tokens + {new:,} new ones do not fit the model's context of {self._context:,}",
        )

    def _generate(self, rows: Sequence[Row]) -> dict[int, Response]:
        if not rows:
            return {}
        outputs = self._call(rows)
        if len(outputs) != len(rows):
            # After a call that raised, the next call may return its outputs too (vllm-project/vllm#26081). The call
            # after that does not.
            outputs = self._call(rows)
        if len(outputs) != len(rows):
            raise RuntimeError(f"vLLM gave {len(outputs)} outputs for {len(rows)} prompts")
        return {row.index: self._response(output) for row, output in zip(rows, outputs, strict=True)}

    def _call(self, rows: Sequence[Row]) -> list[Any]:
        params = [self._params(row) for row in rows]
        outputs: list[Any]
        if self._renderer is None or self._renderer.chat:
            messages = [chat(self._spec, row.prompt) for row in rows]
            outputs = self._llm.chat(
                messages,
                params,
                use_tqdm=False,
                lora_request=self._adapter,
                chat_template_kwargs=self._spec.chat_template_kwargs,
            )
        else:
            texts = [self._renderer.render(row.prompt) for row in rows]
            outputs = self._llm.generate(texts, params, use_tqdm=False, lora_request=self._adapter)
        return outputs

    def _params(self, row: Row) -> Any:
        sampling = self._spec.sampled if row.sampled else self._spec.generation
        params: dict[str, Any] = {
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_new_tokens,
            # vLLM would stop within thoughts, too. So the answers of a model that thinks are cut here, and cost more.
            "stop": [] if self._thinks else list(sampling.stop),
            "stop_token_ids": list(self._stop_ids),
        }
        if self._shows_special:
            params["skip_special_tokens"] = False
        if not sampling.greedy:
            params |= {"top_p": sampling.top_p, "top_k": sampling.top_k, "seed": row.seed}
        if self._spec.logprobs and not row.sampled:
            # Of the token that was chosen alone.
            params["logprobs"] = 0
        if self._spec.response_format is not None:
            params["structured_outputs"] = _structure(self._spec.response_format)
        return self._new_params(**params)

    def _response(self, output: Any) -> Response:
        completion = output.outputs[0]
        read, written = len(output.prompt_token_ids or ()), len(completion.token_ids)
        if completion.finish_reason not in ("stop", "length"):
            error = f"vLLM ended the response with the reason '{completion.finish_reason}'"
            return Response(input_tokens=read, error_type="model_error", error=error)
        parts = self._parted(output.prompt_token_ids, completion.text)
        cuts = [at for stop in self._spec.generation.stop if (at := parts.answer.find(stop)) >= 0]
        text = parts.answer[: min(cuts)] if cuts else parts.answer
        tokens = list(completion.token_ids)
        thought = 0
        if parts.thoughts is not None:
            thought = tokens_of_text(tokens, parts.start, self._text) if parts.answer else written
        # A stop string ended it: its tokens are cut from the text. The end token would be None or a number here.
        is_cut = bool(cuts) or isinstance(completion.stop_reason, str)
        counted = tokens_of_text(tokens, parts.start + len(text), self._text) if is_cut else written
        mean, low = self._signals(completion, thought, counted)
        return thoughts.checked(
            Response(
                thoughts.without(self._tokenizer.all_special_tokens, text) if self._shows_special else text,
                "stop" if cuts else completion.finish_reason,
                read,
                written,
                cached_tokens=output.num_cached_tokens or 0,
                reasoning_tokens=thought,
                reasoning=parts.thoughts or None,
                logprob=mean,
                logprob_low=low,
            )
        )

    def _parted(self, prompt: Sequence[int] | None, text: str) -> thoughts.Parted:
        if not self._thinks:
            return thoughts.Parted(None, text, 0)
        end = self._tokenizer.decode(list(prompt or ())[-_LONGEST_MARK:], skip_special_tokens=False)
        return thoughts.parted(text, thoughts.begun(str(end)))

    def _signals(self, completion: Any, first: int, last: int) -> tuple[float | None, float | None]:
        """Of the tokens from `first` up to `last`, which are the answer's."""
        if not completion.logprobs:
            return None, None
        steps = list(zip(completion.token_ids, completion.logprobs, strict=True))[first:last]
        return of_tokens([step[token].logprob for token, step in steps])

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=not self._shows_special))


def _structure(response_format: dict[str, Any]) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    if response_format["type"] == "json_object":
        return StructuredOutputsParams(json_object=True)
    return StructuredOutputsParams(json=response_format["json_schema"]["schema"])


def unknown_argument(load: Load, error: Exception) -> str | None:
    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not isinstance(error, TypeError) or match is None or match[1] not in load.settings.get("engine", {}):
        return None
    return f"engine.{match[1]} is no argument of vLLM's LLM"


def _says_that_it_died(error: Exception) -> bool:
    # By name: the class is in none of vLLM's documented modules.
    return any(kind.__name__ == "EngineDeadError" for kind in type(error).__mro__)


def in_a_line(error: Exception, named: bool = False) -> str:
    """An error in one line. vLLM checks arguments with pydantic, whose own first line only counts the errors."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first_line(ValueError(first["msg"].removeprefix("Value error, ")))
        return f"{where}: {what}" if where else what
    return f"{type(error).__name__}: {first_line(error)}" if named else first_line(error)
