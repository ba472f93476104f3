"""What the units of a shard have taken so far, and what is left of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from batchroute.costs.prices import Price
from batchroute.pipeline.shards.bounds import Amount
from batchroute.storage.receipts import Receipt


@dataclass
class Tally:
    """The cost and tokens of a shard so far. `prompt_tokens` and `left` count by the router's tokenizer."""

    cost: int = 0
    tokens: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    left: dict[str, int] = field(default_factory=dict)
    tokens_left: int = 0
    done: set[str] = field(default_factory=set)
    # Of units that are not whole: cost, tokens and number of their answers so far.
    begun: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def assign(self, piece: Receipt) -> None:
        """A unit that is still to do. The sum is kept, since each of many units asks for it."""
        self.left[piece.unit] = piece.counts["tokens"]
        self.tokens_left += piece.counts["tokens"]

    def settle(self, unit: str) -> None:
        """A unit that is done."""
        self.tokens_left -= self.left.pop(unit, 0)
        self.begun.pop(unit, None)
        self.done.add(unit)

    def add(self, receipt: Receipt, prompt_tokens: int, price: Price | None) -> None:
        self.cost += cost_of(receipt, price)
        self.tokens += tokens_of(receipt)
        self.rows += receipt.counts["generated"]
        self.prompt_tokens += prompt_tokens

    def expected(self, prompt_tokens: int) -> Amount:
        """What this many more prompt tokens will take; 0 while no unit is done."""
        if not self.prompt_tokens:
            return 0, 0
        return self.cost * prompt_tokens // self.prompt_tokens, self.tokens * prompt_tokens // self.prompt_tokens

    def spent(self) -> Amount:
        begun = self.begun.values()
        return self.cost + sum(cost for cost, *_ in begun), self.tokens + sum(tokens for _, tokens, _ in begun)

    def of_a_row(self) -> Amount:
        """What an answer took so far, in the mean; 0 while there is none."""
        rows, (cost, tokens) = self.rows + sum(number for *_, number in self.begun.values()), self.spent()
        return (cost // rows, tokens // rows) if rows else (0, 0)


def cost_of(receipt: Receipt, price: Price | None) -> int:
    """Pico-dollars of a unit. Where time has a price, they include the loading of the model."""
    loading = 0 if price is None or price.by_token else price.of_seconds(receipt.load_seconds)
    return receipt.counts["cost_pico"] + loading


def tokens_of(receipt: Receipt) -> int:
    names = ("input_tokens", "output_tokens", "sample_input_tokens", "sample_output_tokens")
    return sum(receipt.counts.get(name, 0) for name in names)
