"""Files under one root folder, put whole and create-only. The only way to files that batchroute writes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from pathlib import Path

from fsspec.core import split_protocol

from batchroute.errors import InputError, StoppedError

_TEMPORARY = ".tmp-"


class Folder:
    """A local folder. Names are relative to it, with `/` between their parts.

    A put writes a temporary file beside the target, syncs it, and links it to its name: the name appears with its whole
    content or not at all, and never replaces what is there.
    """

    def __init__(self, uri: str) -> None:
        """Raises:
        InputError: `uri` is not a local path.
        """
        protocol, path = split_protocol(uri)
        if protocol not in (None, "file", "local"):
            raise InputError(f"'{uri}': {protocol}:// is not supported for output; give a local path")
        self.path = Path(path).expanduser().absolute()

    def folder(self, name: str) -> Folder:
        return Folder(str(self.path / name))

    def put_new(self, name: str, data: bytes | memoryview, sync_folder: bool = True) -> bool:
        """Create `name` with `data`. False when it exists already, which leaves it as it is.

        Without `sync_folder` the content survives a power cut, the name only after a later put into the same folder.

        Raises:
            InputError: the folder may not be written.
            StoppedError: the disk is full or failing; free it and run again.
        """
        target = self.path / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            return _link_new(target, data, sync_folder)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise InputError(f"cannot write {target}: {error.strerror}") from error
        except OSError as error:
            if error.errno == errno.EROFS:
                raise InputError(f"cannot write {target}: {error.strerror}") from error
            raise StoppedError(f"cannot write {target}: {error.strerror}; make room and run again") from error

    def check_writable(self) -> None:
        """Raises:
        InputError: nothing can be written here.
        """
        folder = self.path
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"cannot write {self.path}: {folder} is {'not writable' if folder.is_dir() else 'a file'}")

    def read(self, name: str) -> bytes:
        """Raises:
        FileNotFoundError: there is no such file.
        """
        return (self.path / name).read_bytes()

    def exists(self, name: str = "") -> bool:
        return (self.path / name).exists()

    def names(self, suffix: str) -> list[str]:
        """The names of the files directly in this folder that end in `suffix`, sorted; none when there is no folder."""
        try:
            found = [entry.name for entry in os.scandir(self.path) if entry.name.endswith(suffix)]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith(_TEMPORARY))

    def remove(self, name: str) -> None:
        """Remove one file; nothing happens when it is not there."""
        (self.path / name).unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Remove this folder and all that is in it; nothing happens when it is not there."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def __str__(self) -> str:
        return str(self.path)


def _link_new(target: Path, data: bytes | memoryview, sync_folder: bool) -> bool:
    temporary = target.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    if sync_folder:
        _sync_folder(target.parent)
    return True


def _sync_folder(path: Path) -> None:
    # Without this a power cut can forget the new name although the file's content is on disk.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
