"""What a checkup finds: a line that is well, a note, or a problem with its remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from batchroute.commands.doctor.network import within
from batchroute.errors import BatchrouteError, first_line

Mark = Literal["well", "note", "problem"]

# Sentences of errors say first what is wrong, and then what to do.
_WRONG_AND_REMEDY = re.compile(
    r"(?P<wrong>.+?)(?:; |: (?=(?:check|choose|install|make|name|pip|run|save|set) ))(?P<remedy>.+)"
)
# A storage or a server that does not answer must not hold up what else there is to say.
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line about one thing.

    Attributes:
        subject: the thing, in a word or two.
        remedy: what to do, in one sentence; of every problem, and of notes where there is something to do.
        group: what it is a part of.
    """

    subject: str
    text: str
    mark: Mark = "well"
    remedy: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Checkup:
    """A look at one thing.

    Attributes:
        remedy: for what goes wrong without saying what to do.
        bounded: whether it may wait for others, and is given up after a while.
    """

    group: str
    subject: str
    look: Callable[[], Finding | Iterable[Finding]]
    remedy: str
    bounded: bool = False

    def findings(self) -> list[Finding]:
        """What it finds. Whatever it raises is a problem, and no other checkup's."""
        try:
            found = within(_SECONDS, self._listed) if self.bounded else self._listed()
        except TimeoutError:
            found = [problem(self.subject, f"no answer within {_SECONDS:g} s", self.remedy)]
        except BatchrouteError as error:
            found = [self._wrong(str(error))]
        except Exception as error:
            words = f"it could not be looked at: {type(error).__name__}: {first_line(error)}"
            found = [problem(self.subject, words, self.remedy)]
        return [replace(finding, group=self.group) for finding in found]

    def _listed(self) -> list[Finding]:
        found = self.look()
        return [found] if isinstance(found, Finding) else list(found)

    def _wrong(self, sentence: str) -> Finding:
        sentence = " ".join(sentence.split())
        parts = _WRONG_AND_REMEDY.fullmatch(sentence)
        if parts is None:
            return problem(self.subject, sentence, self.remedy)
        return problem(self.subject, parts["wrong"], parts["remedy"])


def well(subject: str, text: str) -> Finding:
    return Finding(subject, text)


def note(subject: str, text: str, remedy: str = "") -> Finding:
    return Finding(subject, text, "note", remedy)


def problem(subject: str, text: str, remedy: str) -> Finding:
    return Finding(subject, text, "problem", remedy)


def size(count: float) -> str:
    """Of bytes, in words: `15.3 GiB`, `64 MiB`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def counted(count: int, singular: str, plural: str = "") -> str:
    """`1 GPU`, `2 GPUs`."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
