from __future__ import annotations

import numpy as np
import pytest

from batchroute.router.heads.cheap import NAMES, cheap
from batchroute.router.heads.ngrams import Codes


def features(*texts: str) -> list[dict[str, float]]:
    rows = cheap(texts, Codes.of(texts))
    assert rows.shape == (len(texts), len(NAMES))
    return [dict(zip(NAMES, row.tolist(), strict=True)) for row in rows]


def test_what_a_text_looks_like() -> None:
    plain, code, choice, russian = features(
        "Why is the sky blue?",
        "def f(x):\n    return x[0] + 12",
        "Which?\nA. one\nB. two\n(C) three",
        "Почему небо синее",
    )
    assert plain["word_why"] == plain["questions"] == 1
    assert plain["digits"] == plain["choices"] == plain["cyrillic"] == 0
    assert plain["words"] == pytest.approx(np.log1p(5))
    assert code["word_def"] == code["word_return"] == 1
    assert code["code_share"] > plain["code_share"]
    assert code["digits"] == pytest.approx(np.log1p(3))
    assert choice["choices"] == 3
    assert russian["cyrillic"] > 0.8


def test_a_texts_features_do_not_depend_on_the_other_texts() -> None:
    texts = ["One.", "", "Two\nlines? 3 + 4 = 7"]
    assert features(*texts) == [features(text)[0] for text in texts]


def test_nothing_is_divided_by_zero() -> None:
    assert np.isfinite(cheap([""], Codes.of([""]))).all()
