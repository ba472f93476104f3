"""The breaker: stops a run whose rows fail one after another with the same error, if no other row would pass."""

from __future__ import annotations

import re

from batchroute.errors import StoppedError
from batchroute.generators.openai.failures import Failure

# After this many rows in a row with the same error, the rest may only cost time and money.
_HOPELESS = 20


class Breaker:
    """Counts failures that are alike, and answers.

    Attributes:
        answers: how many rows were answered.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._words, self._alike, self._most = "", 0, _HOPELESS
        self.answers = 0

    def answered(self) -> None:
        self._alike, self.answers = 0, self.answers + 1

    def failed(self, failure: Failure, shown: str) -> StoppedError | None:
        """The error that ends the run, if so many rows failed alike that the rest would only cost time and money.

        Args:
            shown: the failure's words, as they may be shown.
        """
        # A prompt that is too long or refused says nothing about others, although rows of one length come together.
        if failure.kind == "row" and failure.error_type != "bad_request":
            return None
        # Messages of the same error may differ in request ids and row numbers.
        words = re.sub(r"\w*\d\w*", "#", failure.words)
        self._alike = self._alike + 1 if words == self._words else 1
        self._words = words
        if self._alike < self._most:
            return None
        return StoppedError(f"{self._alike} rows in a row failed alike at {self._host}: {shown}; fix it and run again")

    def others_pass(self) -> None:
        """Go on: another prompt was answered. It takes twice as many failures until that is asked again."""
        self._alike, self._most = 0, 2 * self._most
