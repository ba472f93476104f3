"""Tables of lakes among folders: their files are not all of one version, so none of them is read as a plain file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from batchroute.errors import InputError

if TYPE_CHECKING:
    from batchroute.storage.store import Store

# A folder inside a table, by the kind of table that it marks; Iceberg's counts with a file of this ending in it.
_MARKS = {"_delta_log": "Delta", ".hoodie": "Hudi", "metadata": "Iceberg"}
_ICEBERG_FILE = ".metadata.json"
_WAYS = {
    "Delta": "name the table as input.delta",
    "Iceberg": "name the table and its catalog as input.iceberg and input.catalog",
    "Hudi": "read it by input.warehouse with a query, or write the rows that you want to a folder of their own",
}


def refuse_lakes(named: str, paths: Iterable[str]) -> None:
    """
    Args:
        named: the input, as the user named it.

    Raises:
        InputError: one of these local files, or the file that a link leads to, lies in a lake's table.
    """
    paths = list(paths)
    folders = {os.path.dirname(path) for path in paths}
    folders |= {os.path.realpath(folder) for folder in folders}
    folders |= {os.path.dirname(os.path.realpath(path)) for path in paths if os.path.islink(path)}
    known: set[str] = set()
    for folder in folders:
        while folder not in known:
            known.add(folder)
            for mark, kind in _MARKS.items():
                place = os.path.join(folder, mark)
                if os.path.isdir(place) and (kind != "Iceberg" or _has_iceberg_file(os.listdir(place))):
                    raise _refusal(named, folder, kind)
            folder = os.path.dirname(folder)


def refuse_remote_lakes(store: Store, named: str, base: str, paths: Iterable[str], seen: Iterable[str]) -> None:
    """As `refuse_lakes`, in a bucket.

    Args:
        base: the folder that was listed, or the file.
        seen: all that the listing gave, hidden files too.
    """
    for key in seen:
        # What lies below the base, the listing has shown.
        parts = key.split("/")
        for mark in _MARKS.keys() & set(parts[:-1]):
            root, inside = "/".join(parts[: parts.index(mark)]), parts[parts.index(mark) + 1 :]
            is_mark = mark != "metadata" or _has_iceberg_file(inside[:1])
            if is_mark and any(path.startswith(f"{root}/") for path in paths):
                raise _refusal(named, root, _MARKS[mark])
    bucket, _, rest = store.path(base).partition("/")
    parts = rest.split("/") if rest else []
    above = [store.uri("/".join([bucket, *parts[:count]])) for count in range(len(parts))]
    asked = [(folder, mark) for folder in above for mark in _MARKS]
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        for (folder, mark), keys in zip(
            asked, pool.map(lambda pair: store.first_keys("/".join(pair)), asked), strict=True
        ):
            if keys and (mark != "metadata" or _has_iceberg_file(keys)):
                raise _refusal(named, folder, _MARKS[mark])


def _has_iceberg_file(names: Iterable[str]) -> bool:
    return any(_ICEBERG_FILE in name for name in names)


def _refusal(named: str, root: str, kind: str) -> InputError:
    what = "is" if named == root else "has files of" if root.startswith(f"{named}/") else "lies in"
    article = "an" if kind == "Iceberg" else "a"
    of = "" if named == root else f", {root}"
    return InputError(
        f"input.uri: {named} {what} {article} {kind} table{of}, whose files are not all of one version; {_WAYS[kind]}"
    )
