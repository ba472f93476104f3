"""Continuity: what is committed stays right: a run after the commit changes nothing, and damage is seen."""

from __future__ import annotations

import polars as pl
import pytest

from batchroute.commands.verify import verify
from tests.crash.places import Place


@pytest.mark.crash
def test_a_run_after_the_commit_changes_nothing(somewhere: Place, calm: pl.DataFrame) -> None:
    before = somewhere.files()
    assert somewhere.run() == 0
    assert somewhere.files() == before
    somewhere.check(calm)


@pytest.mark.crash
def test_verify_tells_every_kind_of_damage(somewhere: Place, calm: pl.DataFrame) -> None:
    filesystem, part = somewhere.filesystem(), f"{somewhere.output}/data/part-00001.parquet"
    content = filesystem.cat_file(part)
    filesystem.pipe_file(part, content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    assert verify(somewhere.output).wrong == ["data/part-00001.parquet is damaged: its hash is not the manifest's"]
    filesystem.rm_file(part)
    assert verify(somewhere.output).wrong == ["data/part-00001.parquet is missing"]
    filesystem.pipe_file(part, content)
    assert verify(somewhere.output).wrong == []
    filesystem.pipe_file(f"{somewhere.output}/data/part-00009.parquet", content)
    (line,) = verify(somewhere.output).wrong
    assert line.startswith("data/part-00009.parquet is not in the manifest")


@pytest.mark.crash
def test_verify_compares_the_rows_with_the_input(somewhere: Place, calm: pl.DataFrame) -> None:
    rows = pl.read_parquet(somewhere.folder.input)
    rows.write_parquet(somewhere.folder.input)
    (line,) = verify(somewhere.output).unchecked
    assert "has changed since the run began" in line
