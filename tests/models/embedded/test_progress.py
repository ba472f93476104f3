"""The lines of a fetch in a log."""

from __future__ import annotations

import io

from batchroute.models.embedded.progress import Lines


def test_a_log_gets_the_first_and_the_last_line_of_a_download() -> None:
    stream = io.StringIO()
    progress = Lines(stream)
    for done in (0, 1_000_000, 700_000_000, 1_117_320_768):
        progress.downloaded("big", done, 1_117_320_768)
    assert stream.getvalue() == "big: 0.0 MB of 1,117 MB\nbig: 1,117 MB of 1,117 MB\n"
