"""Where a job's output is in a crash test: on local disk, on a real S3 server, or on another cloud's emulator."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import polars as pl

import batchroute
from batchroute.commands.verify import verify
from batchroute.reports.night import AUDIT
from batchroute.storage.objects import is_local
from tests.crash import forking
from tests.crash.forking import Crash, Stored
from tests.support.azurite import Azurite
from tests.support.google import GoogleStorage
from tests.support.jobs import JobFolder, table
from tests.support.seaweed import SeaweedFS

ROWS = 90


@dataclass
class Place:
    """A small job, and where its outputs go."""

    folder: JobFolder
    base: str
    environment: dict[str, str] = field(default_factory=dict)
    _outputs: int = 0
    _filesystem: Any = None
    _audit: pl.DataFrame | None = None

    def new_output(self) -> str:
        """Point the job to an output that nothing has been written to."""
        self._outputs += 1
        self.output = f"{self.base}/out{self._outputs}"
        self.folder.settings["output"] = {"uri": self.output}
        self.job = self.folder.path
        return self.output

    def export(self) -> None:
        """Let this process find the server too."""
        os.environ.update(self.environment)

    @property
    def log(self) -> Path:
        return self.folder.folder / f"log{self._outputs}"

    def run(self, crash: Crash | None = None, prepare: Callable[[], object] | None = None) -> int:
        return forking.run(self.job, self.log, self.environment, crash, prepare=prepare)

    def record(self) -> list[Stored]:
        """Run the job to its end at a new output; returns what was stored before each put, and after the last one."""
        self.new_output()
        kept = self.folder.folder / f"moments{self._outputs}"
        code = forking.run(self.job, self.log, self.environment, keep=kept)
        assert code == 0, forking.lines(self.log, "error")
        return forking.moments(kept)

    def make_good(self, moment: Stored, calm: pl.DataFrame) -> None:
        """A new output with what a run had stored when it crashed; the next attempt must end as `end_as` says.

        The crash itself need not be repeated: all that an attempt knows of the ones before it is what they stored.
        """
        self.new_output()
        for name in () if self.output.startswith("s3:") else moment:
            Path(f"{self.output}{name}").parent.mkdir(parents=True, exist_ok=True)
        if moment:
            self.filesystem().pipe({f"{self.output}{name}": content for name, content in moment.items()})
        self.end_as(calm)

    def end_as(self, calm: pl.DataFrame) -> None:
        """An attempt ends as a calm run does, and repeats no unit that an earlier one has committed."""
        before = self.receipts()
        done = len(forking.lines(self.log, "unit"))
        assert self.run() == 0, (sorted(before), forking.lines(self.log, "error"))
        self.check(calm)
        after = self.receipts()
        assert {name: after[name] for name in before} == before
        again = forking.lines(self.log, "unit")[done:]
        assert set(again) & set(before) == set(), sorted(before)

    def start(self) -> Any:
        return forking.start(self.job, self.log, self.environment)

    def filesystem(self) -> fsspec.AbstractFileSystem:
        if self._filesystem is None:
            self._filesystem = forking.filesystem_of(self.base)
        return self._filesystem

    def polars_options(self) -> dict[str, str] | None:
        """See `SeaweedFS.polars_options`."""
        endpoint = self.environment.get("AWS_ENDPOINT_URL")
        return {"aws_endpoint_url": endpoint} if endpoint else None

    def files(self, folder: str = "", wanted: Callable[[str], bool] = bool) -> dict[str, bytes]:
        """Every file of the output and its work folder that is under `folder`, and what it holds.

        Args:
            wanted: by its name; the others are not read.
        """
        filesystem = self.filesystem()
        contents: dict[str, bytes] = {}
        for root in (self.output, f"{self.output}.work"):
            entries = filesystem.find(f"{root}/{folder}".rstrip("/"), detail=True).items()
            # The server lists an emptied folder as an entry of its own.
            names = [name for name, entry in entries if entry["type"] == "file" and entry["size"] > 0 and wanted(name)]
            contents |= filesystem.cat(names) if names else {}
        return contents

    def receipts(self) -> dict[str, bytes]:
        """Of the units, by the name that the log has for them."""
        scheme = "" if is_local(self.base) else self.base.partition("bucket/")[0]
        of_units = self.files(wanted=lambda name: name.rsplit("/", 1)[-1][:-5].isdigit())
        return {scheme + name: data for name, data in of_units.items()}

    def committed(self) -> bool:
        return bool(self.filesystem().exists(f"{self.output}/manifest.json"))

    def rows(self) -> pl.DataFrame:
        return batchroute.read(self.output).collect()

    def check(self, expected: pl.DataFrame) -> None:
        """The output is committed, whole, and row by row what an undisturbed run writes; so is an audit."""
        assert self.rows().equals(expected)
        if "audit" in self.folder.settings.get("report", {}):
            with self.filesystem().open(f"{self.output}/report/{AUDIT}", "rb") as file:
                audit = pl.read_parquet(file)
            self._audit = audit if self._audit is None else self._audit
            assert audit.equals(self._audit)
        findings = verify(self.output)
        assert (findings.wrong, findings.unchecked) == ([], [])
        assert len(findings.checked) == 2


def place(tmp_path: Path, server: SeaweedFS | GoogleStorage | Azurite | None) -> Place:
    # Its price is by tokens: the cost of a row is the same in every run.
    folder = JobFolder(tmp_path, table(ROWS), units={"score": 45, "generate": 50, "merge": 45})
    folder.use_every_stage()
    if server is None:
        return Place(folder, str(tmp_path / "outputs"))
    os.environ.update(server.environment())
    protocol = "s3" if isinstance(server, SeaweedFS) else "gs" if isinstance(server, GoogleStorage) else "abfs"
    return Place(folder, f"{protocol}://bucket/{tmp_path.name}", server.environment())
