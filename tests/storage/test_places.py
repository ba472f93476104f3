"""One spelling for each place, and the account in a URI."""

from __future__ import annotations

import pytest

from batchroute.storage.places import account_in, in_one_spelling, protocol_of


@pytest.mark.parametrize(
    ("uri", "place", "account"),
    [
        ("s3a://bucket/a", "s3://bucket/a", None),
        ("gcs://bucket/a@b.dfs.core.windows.net/c", "gs://bucket/a@b.dfs.core.windows.net/c", None),
        ("az://box/a?b#c", "abfs://box/a?b#c", None),
        ("abfss://box@mine.dfs.core.windows.net/a/*.parquet", "abfs://box/a/*.parquet", "mine"),
        ("abfss://box@mine.dfs.core.windows.net", "abfs://box", "mine"),
        ("az://box@mine.blob.core.chinacloudapi.cn/a", "abfs://box/a", "mine"),
        ("abfs://mine.dfs.core.windows.net/box/a", "abfs://box/a", "mine"),
        ("abfs://box.with.dots/a", "abfs://box.with.dots/a", None),
        ("memory://a", "memory://a", None),
        ("/disk/az://a", "/disk/az://a", None),
    ],
)
def test_all_spellings_of_a_place_are_one(uri: str, place: str, account: str | None) -> None:
    assert in_one_spelling(uri) == place == in_one_spelling(place)
    assert account_in(uri) == account


def test_a_path_on_disk_has_the_protocol_of_files() -> None:
    assert protocol_of("/disk/a") == protocol_of("a.parquet") == "file"
