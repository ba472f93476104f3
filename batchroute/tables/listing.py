"""Listing an input: which files a path, a glob or a folder names. What cannot be read is an error, never left out."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from batchroute.errors import InputError
from batchroute.tables.lake_roots import refuse_lakes, refuse_remote_lakes

if TYPE_CHECKING:
    from batchroute.storage.store import Store

_ENDINGS = (".parquet", ".parq", ".pq")
# The second of files whose footer is encrypted.
_MAGIC = (b"PAR1", b"PARE")
_LEAST_BYTES = 12
_OTHERS = "; of JSON lines or CSV say so: input.format"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_REQUESTS_AT_ONCE = 16
# Where what is asked for by its name is there, or is not; a bucket has no folders.
_ADDRESSES = ("http", "https", "hf")


class Listing(NamedTuple):
    """The files of an input, in the order of their paths."""

    base: str
    """The folder at the root of hive partitions."""
    paths: list[str]
    entries: Mapping[str, dict[str, Any]] = MappingProxyType({})
    """What a bucket's listing says of each file; empty on local disk."""

    def hive(self, path: str) -> dict[str, str | None]:
        return hive_of(path, self.base)


def hive_of(path: str, base: str) -> dict[str, str | None]:
    """The partition columns in the names of the folders between `base` and the file."""
    folders = PurePosixPath(os.path.relpath(path, base)).parts[:-1]
    pairs = dict(part.split("=", 1) for part in folders if "=" in part)
    return {key: None if value == _HIVE_NULL else unquote(value) for key, value in pairs.items()}


def is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")


def matches(pattern: str, path: str) -> bool:
    """Whether a glob matches a path; two slashes in a key are as one."""
    from fsspec.utils import glob_translate

    wanted = re.compile(glob_translate(pattern))
    return bool(wanted.match(path) or wanted.match(re.sub("/+", "/", path)))


def list_local(path: str) -> Listing:
    """
    Raises:
        InputError: nothing matches, something cannot be read, or the files are of a lake's table.
    """
    none, found = "no such file:", Listing(path, [path])
    if is_glob(path) and not os.path.exists(path):
        base, rest = _split(Path(path).parts)
        folder = str(Path(*base))
        found, none = Listing(folder, _taken(_matching(folder, rest), folder)), "no file matches"
    elif os.path.isdir(path):
        found, none = Listing(path, _parquet(_below(path))), "no parquet file in"
    files = {file: status for file in found.paths if (status := _status(file)) is not None}
    if not files:
        raise InputError(f"input.uri: {none} {path}{_OTHERS if 'parquet' in none else ''}")
    for file in files:
        _check_name(file)
    paths = sorted(_once(files, found.base))
    refuse_lakes(path, paths)
    return found._replace(paths=paths)


def list_remote(store: Store, uri: str) -> Listing:
    """
    Raises:
        InputError: nothing matches, or the files are of a lake's table.
    """
    kind = _kind(store, uri)
    base, none = uri, "no parquet file in"
    if kind == "file":
        entries = {uri: store.info(uri)}
        seen = list(entries)
    elif kind is None and is_glob(uri):
        base, none = "/".join(_split(uri.split("/"))[0]), "no file matches"
        entries = _listed(store, base)
        seen = list(entries)
        pattern = store.path(uri)
        entries = {file: entry for file, entry in entries.items() if matches(pattern, entry["name"])}
    elif kind is None and store.protocol in _ADDRESSES:
        raise InputError(f"input.uri: no such file: {uri}")
    else:
        entries = _listed(store, uri)
        seen = list(entries)
        entries = _remote_parquet(store, {file: entry for file, entry in entries.items() if not _hidden(file, base)})
    paths = sorted(file for file in entries if not _hidden(file, base))
    if not paths:
        raise InputError(f"input.uri: {none} {uri}{_OTHERS if 'parquet' in none else ''}")
    refuse_remote_lakes(store, uri, base, paths, seen)
    return Listing(base, paths, {path: entries[path] for path in paths})


def _split(parts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The parts before the first with a wildcard, and the others."""
    before = list(itertools.takewhile(lambda part: not is_glob(part), parts))
    return before, list(parts[len(before) :])


def _matching(folder: str, parts: list[str], above: tuple[str, ...] = ()) -> Iterator[str]:
    """What the parts of a glob match below a folder; files and folders."""
    if not parts:
        yield folder
        return
    first, rest = parts[0], parts[1:]
    if first == "**":
        place = os.path.realpath(folder)
        if place in above:
            return
        yield from _matching(folder, rest)
        for entry in _entries(folder):
            if _is_folder(entry):
                yield from _matching(entry.path, parts, (*above, place))
            elif not rest:
                yield entry.path
    elif not is_glob(first):
        if os.path.lexists(os.path.join(folder, first)):
            yield from _matching(os.path.join(folder, first), rest)
    elif os.path.isdir(folder):
        for entry in _entries(folder):
            if fnmatchcase(entry.name, first) and (not rest or _is_folder(entry) or _leads_nowhere(entry.path)):
                yield from _matching(entry.path, rest if _is_folder(entry) else [])


def _taken(paths: Iterable[str], base: str) -> list[str]:
    """The files among what a glob matches; a folder only where it is named as a file, as Spark names its outputs."""
    files: dict[str, None] = {}
    for path in paths:
        if _hidden(path, base):
            continue
        if not os.path.isdir(path):
            files[path] = None
        elif path.lower().endswith(_ENDINGS):
            files |= dict.fromkeys(_parquet(_below(path)))
    return list(files)


def _below(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """All files anywhere in a folder. Links are followed, but not to a folder above them."""
    place = os.path.realpath(folder)
    if place in above:
        return
    for entry in _entries(folder):
        if _is_folder(entry):
            yield from _below(entry.path, (*above, place))
        else:
            yield entry.path


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not _is_hidden(entry.name)]
    except OSError as error:
        raise InputError(
            f"input.uri: the folder {shown(folder)} cannot be listed: {error.strerror}; make it readable, or move it"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself: `_status` says so.
        return False


def _parquet(paths: Iterable[str]) -> list[str]:
    """The paths of parquet files, known by their ending or by their first bytes; and of links that lead nowhere."""
    return [path for path in paths if path.lower().endswith(_ENDINGS) or _leads_nowhere(path) or _has_magic(path)]


def _leads_nowhere(path: str) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def _has_magic(path: str) -> bool:
    if not os.path.isfile(path) or os.path.getsize(path) < _LEAST_BYTES:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(4) in _MAGIC
    except OSError as error:
        raise InputError(
            f"input.uri: {shown(path)} cannot be read: {error.strerror}; make it readable, or move it away"
        ) from error


def _listed(store: Store, uri: str) -> dict[str, dict[str, Any]]:
    """The entry of each file in a folder, by its URI."""
    entries = {store.uri(entry["name"]): entry for entry in store.listed(uri)}
    ended = next((file for file in entries if file.endswith("/") and not _hidden(file, uri)), None)
    if ended is not None:
        raise InputError(f"input.uri: the key {ended} ends in a slash and cannot be read; give it another name")
    return entries


def _remote_parquet(store: Store, entries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    def is_parquet(file: str) -> bool:
        if file.lower().endswith(_ENDINGS):
            return True
        return entries[file]["size"] >= _LEAST_BYTES and store.read(file, 0, 4) in _MAGIC

    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        return {
            file: entries[file] for file, found in zip(entries, pool.map(is_parquet, entries), strict=True) if found
        }


def _kind(store: Store, uri: str) -> str | None:
    try:
        return store.kind(uri)
    except InputError:
        # Who may list only the folder of a glob is refused a key that is not there. The listing tells.
        if is_glob(uri):
            return None
        raise


def _status(path: str) -> os.stat_result | None:
    """What the disk says of a file; None where there is none.

    Raises:
        InputError: it is a link that leads nowhere, or no regular file.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        if os.path.islink(path):
            raise InputError(
                f"input.uri: {shown(path)} is a link to {shown(os.readlink(path))}, which cannot be reached "
                f"({error.strerror}); bring the file back, or remove the link"
            ) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return None
        raise InputError(f"input.uri: {shown(path)} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"input.uri: {shown(path)} is no regular file; move it away, or name the files by a glob")
    return status


def _once(files: dict[str, os.stat_result], base: str) -> Iterator[str]:
    """Each file under one name, its own before that of a link, however many links lead to it.

    Raises:
        InputError: two names of a file give its rows different values of a partition column.
    """
    same: dict[tuple[Any, ...], list[str]] = {}
    for path, status in files.items():
        same.setdefault((status.st_dev, status.st_ino), []).append(path)
    for places, paths in list(same.items()):
        if len(paths) > 1:
            # Some mounts give files that differ the same number; links alone are one file for certain.
            del same[places]
            for path in paths:
                hard = files[path].st_nlink > 1
                same.setdefault((*places, files[path].st_size) if hard else (os.path.realpath(path),), []).append(path)
    for paths in same.values():
        if len(paths) == 1:
            yield paths[0]
            continue
        kept, *others = sorted(paths, key=lambda path: (os.path.realpath(path) != path, path))
        hive = hive_of(kept, base)
        for other in others:
            if any(hive.get(key, value) != value for key, value in hive_of(other, base).items()):
                raise InputError(
                    f"input.uri: {kept} and {other} are one file in two partition folders; remove the link, or copy it"
                )
        yield kept


def _check_name(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"input.uri: the name of {shown(path)} is not UTF-8; rename it") from error


def shown(path: str) -> str:
    """A path that can be printed, whatever bytes it has."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _hidden(path: str, base: str) -> bool:
    return any(_is_hidden(part) for part in Path(os.path.relpath(path, base)).parts)


def _is_hidden(name: str) -> bool:
    # Spark's _SUCCESS and _temporary, editors' and our own dot-files.
    return name.startswith(("_", ".")) and "=" not in name and name != "."
