"""The doctor's findings as lines for a terminal, and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import typer

from batchroute.commands.doctor.finding import Finding, Mark
from batchroute.words import plural

_COLOURS: dict[Mark, str] = {"ok": "green", "note": "yellow", "problem": "red"}
_MARK, _SUBJECT, _INDENT = 8, 11, 2


def verdict(findings: Sequence[Finding], job_file: str | None = None) -> str:
    """
    Args:
        job_file: None if only the machine was checked.
    """
    what = "" if job_file is None else f" for {job_file}"
    problems = sum(finding.mark == "problem" for finding in findings)
    notes = sum(finding.mark == "note" for finding in findings)
    if problems:
        return f"This machine is not ready{what}: {plural(problems, 'problem')} to fix first."
    return f"This machine is ready{what}" + (f", with {plural(notes, 'note')} to read." if notes else ".")


def lines(findings: Sequence[Finding], closing: str, width: int = 100, colour: bool = False) -> list[str]:
    """
    Args:
        closing: the verdict.
        width: columns to wrap lines at.
    """
    shown = []
    for group, of_group in groupby(findings, key=lambda finding: finding.group):
        shown.append(typer.style(group, bold=True) if colour else group)
        for finding in of_group:
            shown += _line(finding, width, colour)
    return [*shown, closing]


def _line(finding: Finding, width: int, colour: bool) -> list[str]:
    before = " " * _INDENT + f"{finding.mark:<{_MARK}}{finding.subject:<{_SUBJECT}}"
    hanging = " " * (_INDENT + _MARK)
    wrapped = textwrap.wrap(
        f"{before}{finding.text}", width, subsequent_indent=" " * len(before), break_on_hyphens=False
    )
    if colour:
        at = _INDENT + len(finding.mark)
        wrapped[0] = " " * _INDENT + typer.style(finding.mark, fg=_COLOURS[finding.mark]) + wrapped[0][at:]
    if finding.remedy:
        remedy = f"{hanging}{'remedy':<{_SUBJECT}}{finding.remedy}"
        wrapped += textwrap.wrap(remedy, width, subsequent_indent=" " * len(before), break_on_hyphens=False)
    return wrapped


def as_json(findings: Sequence[Finding], closing: str) -> str:
    # Scripts know the mark of what is ok as "well".
    tree: dict[str, Any] = {
        "well": all(finding.mark != "problem" for finding in findings),
        "verdict": closing,
        "findings": [asdict(finding) | ({"mark": "well"} if finding.mark == "ok" else {}) for finding in findings],
    }
    return json.dumps(tree, indent=1, ensure_ascii=False)
