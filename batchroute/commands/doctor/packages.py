"""Python and the packages: versions, missing packages, and the extras that install them."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

from packaging.requirements import Requirement

from batchroute import __version__
from batchroute.commands.doctor.finding import Finding, ok, problem
from batchroute.commands.doctor.gpus import Gpus
from batchroute.words import plural

_SHOWN = ("torch", "transformers", "accelerate", "polars", "pyarrow")
# Only for developers of batchroute.
_NOT_OF_USERS = {"dev"}


def python() -> Finding:
    return ok("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def versions(gpus: Gpus) -> Iterator[Finding]:
    """The versions of packages that affect results, and a problem for each missing or too old package."""
    installed = {name: _version(name) for name in _SHOWN}
    words = [f"{name} {version}" for name, version in installed.items() if version is not None]
    torch = next((number for number, name in enumerate(words) if name.startswith("torch ")), None)
    if torch is not None:
        words[torch] += f" ({gpus.build or 'CPU build'})"
    yield ok("packages", ", ".join([f"batchroute {__version__}", *words]))
    for requirement in requirements(""):
        wrong = _wrong(requirement)
        if wrong:
            yield problem("packages", wrong, f"pip install '{requirement.name}{requirement.specifier}'")


def extras() -> Finding:
    """Which extras are installed, and which are not."""
    installed = [name for name in _extras() if not missing(name)]
    others = [name for name in _extras() if name not in installed]
    words = [f"{', '.join(installed) or 'none'} installed"]
    if others:
        words.append(f"{', '.join(others)} not (pip install 'batchroute[NAME]')")
    return ok("extras", "; ".join(words))


def missing(extra: str) -> list[str]:
    """A phrase for each package of an extra that is missing or too old. An unknown extra has no packages."""
    return [wrong for requirement in requirements(extra) if (wrong := _wrong(requirement))]


def requirements(extra: str) -> list[Requirement]:
    """The requirements of an extra, or of batchroute itself for the name "", from the installed package's metadata."""
    needed = []
    for line in importlib.metadata.requires("batchroute") or ():
        requirement = Requirement(line)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and (always == (not extra)):
            needed.append(requirement)
    return needed


def _extras() -> list[str]:
    known = importlib.metadata.metadata("batchroute").get_all("Provides-Extra") or ()
    return sorted(set(known) - _NOT_OF_USERS)


def _wrong(requirement: Requirement) -> str:
    version = _version(requirement.name)
    if version is None:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, and {requirement.specifier} is needed"
    return ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def needed(why: dict[str, str]) -> Iterator[Finding]:
    """Whether the extras that a job needs are installed.

    Args:
        why: the setting that needs an extra, by the extra's name.
    """
    absent = {extra: missing(extra) for extra in why}
    wanting = [extra for extra, packages in absent.items() if packages]
    if wanting:
        reasons = ", ".join(why[extra] for extra in wanting)
        packages = ", ".join(package for extra in wanting for package in absent[extra])
        yield problem("extras", f"{reasons}: {packages}", f"pip install 'batchroute[{','.join(sorted(wanting))}]'")
    elif why:
        yield ok("extras", f"{', '.join(sorted(why))}: the job needs {plural(len(why), 'extra')}, installed")
