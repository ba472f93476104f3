"""A folder of an output or of a run's state, as every storage offers it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Folder(ABC):
    """Files under one root. Names are relative to the root, with `/` between their parts.

    A put is whole and create-only: the name appears with its whole content or not at all, and never replaces a file.
    """

    uri: str
    reads_ahead = 0
    """Files of units to read while the one before is worked on: a thread takes longer to ask than a disk to answer."""

    @abstractmethod
    def folder(self, name: str) -> Folder: ...

    @abstractmethod
    def beside(self, suffix: str) -> Folder:
        """The folder next to this one with the same name plus `suffix`."""

    @abstractmethod
    def put_new(self, name: str, data: bytes | memoryview, sync_folder: bool = True) -> bool:
        """Create `name` with `data`; False, and no change, when it exists.

        Without `sync_folder` the content survives a power cut, but the name only after a later put into the folder.

        Raises:
            InputError: no right to write here.
            StoppedError: the storage is full, failing or gone.
        """

    @abstractmethod
    def check_create_only(self) -> str | None:
        """Try whether puts are create-only here; returns a warning where they are not and `single_writer` waives it.

        Raises:
            InputError: puts are not create-only.
        """

    @abstractmethod
    def check_writable(self) -> None:
        """Raises:
        InputError: nothing can be written here.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Raises:
        FileNotFoundError: there is no such file.
        """

    def read_all(self, names: list[str]) -> list[bytes]:
        """`read` for many small files, at the same time where that is faster."""
        return [self.read(name) for name in names]

    @abstractmethod
    def parquet(self, name: str, size: int | None = None) -> Any:
        """What pyarrow reads a parquet file from. Given `size`, in bytes, only the parts in need travel.

        Raises:
            FileNotFoundError: there is no such file.
        """

    @abstractmethod
    def exists(self, name: str = "") -> bool: ...

    @abstractmethod
    def is_file(self) -> bool:
        """Whether the folder's own name is a file."""

    @abstractmethod
    def names(self, suffix: str) -> list[str]:
        """The sorted names of files directly in this folder that end in `suffix`; empty when there is no folder."""

    @abstractmethod
    def folders(self) -> list[str]:
        """The names of the folders directly in this one, sorted."""

    @abstractmethod
    def is_empty(self) -> bool:
        """Whether there is no file anywhere in this folder."""

    @abstractmethod
    def leftovers(self, older_than: float) -> list[str]:
        """The remains of unfinished puts anywhere under this folder that are `older_than` seconds old or more."""

    @abstractmethod
    def remove_leftovers(self, older_than: float) -> None: ...

    @abstractmethod
    def age(self, name: str) -> float:
        """Seconds since the file was put; infinite when the storage does not say."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove one file, if it is there."""

    @abstractmethod
    def remove_all(self) -> None:
        """Remove this folder with everything in it, if it is there."""

    def __str__(self) -> str:
        return self.uri
