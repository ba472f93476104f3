"""A folder of an output or of a run's state: what every storage can do, create-only puts above all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Folder(ABC):
    """Files under one root. Names are relative to it, with `/` between their parts.

    A put is whole and create-only: the name appears with its whole content or not at all, and never replaces what is
    there.
    """

    uri: str

    @abstractmethod
    def folder(self, name: str) -> Folder: ...

    @abstractmethod
    def beside(self, suffix: str) -> Folder:
        """The folder next to this one whose name has `suffix` at its end."""

    @abstractmethod
    def put_new(self, name: str, data: bytes | memoryview, sync_folder: bool = True) -> bool:
        """Create `name` with `data`. False when it exists already, which leaves it as it is.

        Without `sync_folder` the content survives a power cut, the name only after a later put into the same folder.

        Raises:
            InputError: the folder may not be written.
            StoppedError: the storage is full, failing or gone; mend it and run again.
        """

    @abstractmethod
    def check_create_only(self) -> str | None:
        """Try whether puts are create-only here; the warning to give when that was waived (`single_writer`).

        Raises:
            InputError: they are not.
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
        """As `read`, of many small files."""
        return [self.read(name) for name in names]

    @abstractmethod
    def parquet(self, name: str, size: int | None = None) -> Any:
        """What pyarrow reads a parquet file from; with its `size` in bytes only the parts that are asked for travel.

        Raises:
            FileNotFoundError: there is no such file.
        """

    @abstractmethod
    def exists(self, name: str = "") -> bool: ...

    @abstractmethod
    def is_file(self) -> bool:
        """Whether there is a file in the place of the folder."""

    @abstractmethod
    def names(self, suffix: str) -> list[str]:
        """The names of the files directly in this folder that end in `suffix`, sorted; none when there is no folder."""

    @abstractmethod
    def folders(self) -> list[str]:
        """The names of the folders directly in this one, sorted."""

    @abstractmethod
    def is_empty(self) -> bool:
        """Whether there is no file anywhere in this folder."""

    @abstractmethod
    def leftovers(self, older_than: float) -> list[str]:
        """What puts that never ended have left anywhere under this folder, `older_than` seconds ago or more."""

    @abstractmethod
    def remove_leftovers(self, older_than: float) -> None: ...

    @abstractmethod
    def age(self, name: str) -> float:
        """Seconds since the file was put; infinite when the storage does not say."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove one file; nothing happens when it is not there."""

    @abstractmethod
    def remove_all(self) -> None:
        """Remove this folder and all that is in it; nothing happens when it is not there."""

    def __str__(self) -> str:
        return self.uri
