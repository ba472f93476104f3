"""One row on its way through a model that is loaded here: the tokens it reads, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import GenerationConfig, PreTrainedTokenizerBase

from batchroute.errors import first_line
from batchroute.generators.base import Prompt, Response
from batchroute.generators.prompting import ChatError, Renderer
from batchroute.generators.settings import ModelSpec, Sampling
from batchroute.generators.transformers.loading import Loaded
from batchroute.hardware.devices import out_of_memory


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt that fits the model: its index among those handed over, its tokens, and its sampling seed."""

    index: int
    tokens: list[int]
    seed: int


class Reader:
    """Turns prompts into requests, and says which of them the model cannot read."""

    def __init__(self, spec: ModelSpec, loaded: Loaded) -> None:
        self._renderer = Renderer(spec, loaded.tokenizer)
        self._tokenizer = loaded.tokenizer
        self._context = loaded.context
        self._new = 0 if loaded.encoder_decoder else spec.generation.max_new_tokens

    def request(self, index: int, prompt: Prompt, seed: int) -> Request | Response:
        """The prompt's tokens, or an error of type `bad_chat`, `empty_prompt` or `too_long`."""
        try:
            text = self._renderer.render(prompt)
        except ChatError as error:
            return Response(error_type="bad_chat", error=f"the chat template refused it: {first_line(error)}")
        tokens: list[int] = self._tokenizer(text, add_special_tokens=not self._renderer.chat)["input_ids"]
        if not tokens:
            return Response(error_type="empty_prompt", error="the prompt has no tokens")
        if self._context is not None and len(tokens) + self._new > self._context:
            needed = f"{len(tokens):,} prompt tokens" + (f" + {self._new:,} new ones" if self._new else "")
            return Response(
                input_tokens=len(tokens),
                error_type="too_long",
                error=f"{needed} do not fit the model's context of {self._context:,}",
            )
        return Request(index, tokens, seed)


class Writer:
    """Turns the tokens that a model wrote into responses.

    Attributes:
        generation: how the model decodes: greedily and with nothing but what the job asks for. Sampling is done by
            logits processors.
        stops: strings that end a response.
        ends: tokens that end a response.
    """

    def __init__(self, loaded: Loaded, sampling: Sampling) -> None:
        tokenizer, defaults = loaded.tokenizer, loaded.model.generation_config
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self.stops = sampling.stop
        eos = defaults.eos_token_id if defaults.eos_token_id is not None else tokenizer.eos_token_id
        ends: list[int] = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        # A stop that is a special token is not in the decoded text, where stop strings are looked for.
        ends += [tokenizer.get_vocab()[stop] for stop in self.stops if stop in tokenizer.all_special_tokens]
        self.ends = frozenset(ends)
        tokenizer.padding_side = "right" if loaded.encoder_decoder else "left"
        pad = next((i for i in (tokenizer.pad_token_id, defaults.pad_token_id, *ends) if i is not None), 0)
        tokenizer.pad_token_id = pad
        # A fresh configuration: the model's own may hold sampling defaults or penalties that the job did not ask for.
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
        # `generate` fills in from the model's own whatever is not set here.
        loaded.model.generation_config = self.generation

    def response(self, request: Request, tokens: list[int], stopped_at: int | None) -> Response:
        """Cut what the row produced from what padding or a neighbour's longer response added after it.

        Args:
            tokens: what the model wrote, the end-of-sequence token included.
            stopped_at: how many of them it took until a stop string was there.
        """
        end = next((i + 1 for i, token in enumerate(tokens) if token in self.ends), None)
        ends = [length for length in (end, stopped_at) if length is not None]
        tokens = tokens[: min(ends)] if ends else tokens
        # The end token may be an ordinary one, such as a newline.
        said = tokens[:-1] if end == len(tokens) else tokens
        text = str(self.tokenizer.decode(said, skip_special_tokens=True))
        cuts = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        text = text[: min(cuts)] if cuts else text
        return Response(text, "stop" if ends else "length", len(request.tokens), len(tokens))


def failed(request: Request, error: Exception) -> Response:
    """The response of a row that the model raised an error for."""
    kind = "out_of_memory" if out_of_memory(error) else "model_error"
    message = f"{type(error).__name__}: {first_line(error)}"
    return Response(input_tokens=len(request.tokens), error_type=kind, error=message)
