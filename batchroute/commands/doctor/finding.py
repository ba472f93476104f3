"""A checkup and its findings: ok, a note, or a problem with a remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from batchroute.commands.doctor.network import within
from batchroute.errors import BatchrouteError, first_line

Mark = Literal["ok", "note", "problem"]

# An error message says first what is wrong, then what to do.
_WRONG_AND_REMEDY = re.compile(
    r"(?P<wrong>.+?)(?:; |: (?=(?:check|choose|install|make|name|pip|run|save|set) ))(?P<remedy>.+)"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line about one subject.

    Attributes:
        subject: one or two words.
        remedy: one sentence that says what to do; every problem has one, a note may.
        group: heading under which the finding is shown.
    """

    subject: str
    text: str
    mark: Mark = "ok"
    remedy: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Checkup:
    """A check of one subject.

    Attributes:
        look: returns the findings.
        remedy: for an error that has none of its own.
        bounded: whether `look` may wait for a server; it is abandoned after `seconds`.
    """

    group: str
    subject: str
    look: Callable[[], Finding | Iterable[Finding]]
    remedy: str
    bounded: bool = False
    seconds: float = 10.0

    def findings(self) -> list[Finding]:
        """The findings; an error that `look` raises becomes a problem."""
        try:
            findings = within(self.seconds, self._listed) if self.bounded else self._listed()
        except TimeoutError:
            findings = [problem(self.subject, f"no answer within {self.seconds:g} s", self.remedy)]
        except BatchrouteError as error:
            findings = [self._problem_of(str(error))]
        except Exception as error:
            words = f"it could not be checked: {type(error).__name__}: {first_line(error)}"
            findings = [problem(self.subject, words, self.remedy)]
        return [replace(finding, group=self.group) for finding in findings]

    def _listed(self) -> list[Finding]:
        result = self.look()
        return [result] if isinstance(result, Finding) else list(result)

    def _problem_of(self, sentence: str) -> Finding:
        sentence = " ".join(sentence.split())
        parts = _WRONG_AND_REMEDY.fullmatch(sentence)
        if parts is None:
            return problem(self.subject, sentence, self.remedy)
        return problem(self.subject, parts["wrong"], parts["remedy"])


def ok(subject: str, text: str) -> Finding:
    return Finding(subject, text)


def note(subject: str, text: str, remedy: str = "") -> Finding:
    return Finding(subject, text, "note", remedy)


def problem(subject: str, text: str, remedy: str) -> Finding:
    return Finding(subject, text, "problem", remedy)


def size(count: float) -> str:
    """A number of bytes as `15.3 GiB` or `64 MiB`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
