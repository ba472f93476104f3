from __future__ import annotations

from collections.abc import Iterator

import pytest

from batchroute.router.training.heads import fitting


@pytest.fixture(scope="module")
def few_trees() -> Iterator[None]:
    """Heads with few trees, which learn in less time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(fitting._TREES, "n_estimators", 20)
        yield
