from __future__ import annotations

import contextlib
import gc

from batchroute.importing import uncollected


def test_nothing_is_collected_within_and_the_collector_is_as_it_was_behind() -> None:
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    try:
        with uncollected():
            assert not gc.isenabled()
            with contextlib.suppress(ImportError), uncollected():
                raise ImportError
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
