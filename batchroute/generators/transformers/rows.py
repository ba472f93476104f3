"""From a prompt to the tokens that the model reads, and from the tokens that it writes to a response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import GenerationConfig, PreTrainedTokenizerBase

from batchroute.errors import BatchrouteError, first_line
from batchroute.generators import thoughts
from batchroute.generators.base import Response
from batchroute.generators.prompting import ChatError, Renderer
from batchroute.generators.settings import ModelSpec, Sampling
from batchroute.generators.signals import of_tokens, tokens_of_text
from batchroute.generators.transformers.loading import Loaded
from batchroute.hardware.devices import out_of_memory
from batchroute.models.configuration import embedded_tokens
from batchroute.prompt import HALF_A_PAIR, Prompt, has_half_a_pair


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt that fits the model.

    Attributes:
        index: the prompt's position in the call of `generate`.
        within: the marks of the thoughts that the prompt begins, as some chat templates do.
    """

    index: int
    tokens: list[int]
    seed: int
    within: tuple[str, str] | None = None


class Reader:
    """Turns prompts into requests, or into error responses if the model cannot read them."""

    def __init__(self, spec: ModelSpec, loaded: Loaded) -> None:
        self._renderer = Renderer(spec, loaded.tokenizer)
        self._tokenizer = loaded.tokenizer
        self._context = loaded.context
        self._new = 0 if loaded.encoder_decoder else spec.generation.max_new_tokens
        self._known = embedded_tokens(loaded.model)

    def request(self, index: int, prompt: Prompt, seed: int) -> Request | Response:
        """The request, or a response with the error type `bad_chat`, `empty_prompt` or `too_long`."""
        try:
            text = self._renderer.render(prompt)
        except ChatError as error:
            return Response(error_type="bad_chat", error=str(error))
        try:
            tokens: list[int] = self._tokenizer(text, add_special_tokens=not self._renderer.chat)["input_ids"]
        except BatchrouteError:
            # The run ends, such as by a signal that came in the model: no error of it.
            raise
        except Exception as error:
            # Half of a surrogate pair, which JSON can hold and no encoding can.
            return Response(
                error_type="model_error", error=f"the tokenizer cannot read the prompt: {_why(text, error)}"
            )
        if not tokens:
            return Response(error_type="empty_prompt", error="the prompt has no tokens")
        if self._known is not None and max(tokens) >= self._known:
            # On a GPU the model would end the process, and not only the row.
            return Response(
                error_type="model_error",
                error=f"the tokenizer gives the token {max(tokens):,}, and the model has embeddings of {self._known:,}",
                input_tokens=len(tokens),
            )
        if self._context is not None and len(tokens) + self._new > self._context:
            needed = f"{len(tokens):,} prompt tokens" + (f" + {self._new:,} new ones" if self._new else "")
            return Response(
                input_tokens=len(tokens),
                error_type="too_long",
                error=f"{needed} do not fit the model's context of {self._context:,}",
            )
        return Request(index, tokens, seed, thoughts.begun(text) if self._renderer.chat else None)


def _why(text: str, error: Exception) -> str:
    return HALF_A_PAIR if has_half_a_pair(text) else first_line(error)


class Writer:
    """Turns the tokens that a model wrote into responses.

    Attributes:
        generation: the configuration of greedy decoding, with nothing but what the job asks for. Logits processors do
            the sampling.
        stops: strings that end a response.
        ends: tokens that end a response.
        logprobs: whether responses have signals, so that `response` needs the log-probabilities of the tokens.
        thinks: whether the model may write thoughts before its answer.
    """

    def __init__(self, loaded: Loaded, sampling: Sampling, logprobs: bool = False) -> None:
        self.logprobs = logprobs
        tokenizer, defaults = loaded.tokenizer, loaded.model.generation_config
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self.stops = sampling.stop
        template = tokenizer.chat_template
        self.thinks = template is not None and thoughts.known_to(str(template))
        self._shows_special = self.thinks and thoughts.special_among(tokenizer.all_special_tokens)
        # The union of both: in some checkpoints the configuration names the end of a text, and the tokenizer that of a
        # turn, or the other way round.
        ends = list(dict.fromkeys([*_ids(defaults.eos_token_id), *_ids(tokenizer.eos_token_id)]))
        # Stop strings are looked for in decoded text, which has no special tokens. These stops are compared as tokens.
        ends += [tokenizer.get_vocab()[stop] for stop in self.stops if stop in tokenizer.all_special_tokens]
        self.ends = frozenset(ends)
        tokenizer.padding_side = "right" if loaded.encoder_decoder else "left"
        pad = next((i for i in (tokenizer.pad_token_id, defaults.pad_token_id, *ends) if i is not None), 0)
        tokenizer.pad_token_id = pad
        # A new configuration: the model's own may set sampling or penalties that the job does not ask for.
        self.generation = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=ends or None,
            pad_token_id=pad,
            bos_token_id=defaults.bos_token_id,
            decoder_start_token_id=defaults.decoder_start_token_id,
            forced_bos_token_id=defaults.forced_bos_token_id,
        )
        # A first token that the model is made to write says nothing of what it would write: it does not count.
        self._forced = int(loaded.encoder_decoder and defaults.forced_bos_token_id is not None)
        # `generate` takes settings that are missing in its argument from the model's configuration.
        loaded.model.generation_config = self.generation

    def response(
        self, request: Request, tokens: list[int], stopped_at: int | None, logprobs: Sequence[float] | None = None
    ) -> Response:
        """The response of a row, without the padding that follows it while longer rows of its batch go on.

        Args:
            tokens: what the model wrote, the end-of-sequence token and padding included.
            stopped_at: the number of tokens after which the text contained a stop string.
            logprobs: of `tokens`, if the model is asked for them.
        """
        end = next((i + 1 for i, token in enumerate(tokens) if token in self.ends), None)
        ends = [length for length in (end, stopped_at) if length is not None]
        tokens = tokens[: min(ends)] if ends else tokens
        # Decoding would keep an end token that is an ordinary one, such as a newline.
        shown = tokens[:-1] if end == len(tokens) else tokens
        parts = self._parted(request, shown)
        thought = 0
        if parts.thoughts is not None:
            thought = tokens_of_text(shown, parts.start, self._text) if parts.answer else len(tokens)
        text = parts.answer
        cuts = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        counted = len(tokens)
        if cuts:
            text = text[: min(cuts)]
            counted = tokens_of_text(shown, parts.start + len(text), self._text)
        mean, low = (None, None)
        if logprobs is not None:
            mean, low = of_tokens(logprobs[max(self._forced, thought) : counted])
        reason: Literal["stop", "length"] = "stop" if ends else "length"
        return thoughts.checked(
            Response(
                thoughts.without(self.tokenizer.all_special_tokens, text) if self._shows_special else text,
                reason,
                len(request.tokens),
                len(tokens),
                reasoning_tokens=thought,
                reasoning=parts.thoughts or None,
                logprob=mean,
                logprob_low=low,
            )
        )

    def is_stopped(self, request: Request, tokens: Sequence[int]) -> bool:
        """Whether a stop string that is in the last of the tokens is one in the answer, and not in thoughts."""
        if not self.thinks:
            return True
        answer = self._parted(request, tokens).answer
        return any(stop in answer for stop in self.stops)

    def _parted(self, request: Request, tokens: Sequence[int]) -> thoughts.Parted:
        text = self._text(tokens)
        return thoughts.parted(text, request.within) if self.thinks else thoughts.Parted(None, text, 0)

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=not self._shows_special))


def _ids(eos: Any) -> list[int]:
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def failed(request: Request, error: Exception) -> Response:
    """The response of a row for which the model raised an error."""
    kind = "out_of_memory" if out_of_memory(error) else "model_error"
    message = f"{type(error).__name__}: {first_line(error)}"
    return Response(input_tokens=len(request.tokens), error_type=kind, error=message)
