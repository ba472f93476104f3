"""The folder that an evaluation is written into."""

from __future__ import annotations

from pathlib import Path

from batchroute.errors import InputError


def check_output(output: Path, overwrite: bool) -> None:
    """Raises:
    InputError: the output is a file, or a folder that is not empty and must not be overwritten.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"the output '{output}' is a file: name a directory")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise InputError(f"the output '{output}' is not empty: choose another directory, or pass --overwrite")


def make_output(output: Path) -> None:
    """Raises:
    InputError: the folder cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder '{output}': {error.strerror}") from error
