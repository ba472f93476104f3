"""Folders on local disk."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import time
import uuid
from pathlib import Path

from batchroute.errors import InputError, StoppedError
from batchroute.storage.folder import Folder

_TEMPORARY = ".tmp-"
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}
# Of Linux's renameat2: paths relative to the working directory, and RENAME_NOREPLACE.
_HERE, _NEVER_REPLACE = -100, 1


class LocalFolder(Folder):
    """A put writes a temporary file next to its target, syncs the file, and links it to the name, or renames it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().absolute()
        self.uri = str(self.path)

    def folder(self, name: str) -> LocalFolder:
        return LocalFolder(self.path / name)

    def beside(self, suffix: str) -> LocalFolder:
        return LocalFolder(self.path.with_name(self.path.name + suffix))

    def put_new(self, name: str, data: bytes | memoryview, sync_folder: bool = True) -> bool:
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

    def check_create_only(self) -> None:
        return None

    def check_writable(self) -> None:
        folder = self.path
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"cannot write {self.path}: {folder} is {'not writable' if folder.is_dir() else 'a file'}")

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def parquet(self, name: str, size: int | None = None) -> Path:
        if not self.exists(name):
            raise FileNotFoundError(self.path / name)
        return self.path / name

    def is_file(self) -> bool:
        try:
            return self.path.is_file()
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror}") from error

    def exists(self, name: str = "") -> bool:
        return (self.path / name).exists()

    def names(self, suffix: str) -> list[str]:
        try:
            names = [entry.name for entry in os.scandir(self.path) if entry.name.endswith(suffix) and entry.is_file()]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if not name.startswith(_TEMPORARY))

    def folders(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir() if entry.is_dir()) if self.path.is_dir() else []

    def is_empty(self) -> bool:
        return not any(path.is_file() for path in self.path.rglob("*"))

    def leftovers(self, older_than: float) -> list[str]:
        return sorted(str(path) for path in self.path.rglob(f"{_TEMPORARY}*") if _age(path) >= older_than)

    def remove_leftovers(self, older_than: float) -> None:
        for path in self.leftovers(older_than):
            Path(path).unlink(missing_ok=True)

    def age(self, name: str) -> float:
        return _age(self.path / name)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def remove_all(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _link_new(target: Path, data: bytes | memoryview, sync_folder: bool) -> bool:
    temporary = target.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if not _named(temporary, target):
            return False
    finally:
        temporary.unlink(missing_ok=True)
    if sync_folder:
        _sync_folder(target.parent)
    return True


def _named(temporary: Path, target: Path) -> bool:
    """Give a file its name; False, and no change, when the name is taken."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _renamed(temporary, target)
    return True


def _renamed(temporary: Path, target: Path) -> bool:
    """As `_named`, where the disk has no hard links: many mounts of buckets, cards and other systems' disks."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None or rename(_HERE, os.fsencode(temporary), _HERE, os.fsencode(target), _NEVER_REPLACE):
        if rename is not None and ctypes.get_errno() == errno.EEXIST:
            return False
        raise InputError(
            f"cannot write {target}: its disk has neither hard links nor a rename that never overwrites, which keep "
            "two runs at once apart; write to another disk or to a bucket"
        )
    return True


def _sync_folder(path: Path) -> None:
    # Without this a power cut can lose the new name although the file's content is on disk.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
