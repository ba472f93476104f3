from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from batchroute.errors import InputError
from batchroute.router.evaluation import transfer
from batchroute.router.evaluation.transfer import Transfer
from batchroute.router.model import Router
from batchroute.router.scoring import score
from tests.support.jobs import prompts
from tests.support.tiny_models import tiny_router

PROMPTS = prompts(300)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transfer") / "router"
    tiny_router(folder)
    return folder


@pytest.fixture(scope="module")
def ranks(router: Path) -> np.ndarray:
    """Of the router's scores, from 0 to 1."""
    scores = score(Router.load(str(router), CPU), PROMPTS).scores
    checked: np.ndarray = np.argsort(np.argsort(scores)) / len(scores)
    return checked


def table(path: Path, gaps: np.ndarray, rows: int = 300) -> str:
    """Of a large model that always has 1, and a small one that differs by the gap."""
    columns = {
        "prompt": PROMPTS[:rows],
        "small_quality": [[1.0 + gap] for gap in gaps[:rows]],
        "large_quality": [[1.0]] * rows,
    }
    pq.write_table(pa.table(columns), path)
    return str(path)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.2, 300)


def test_a_pair_whose_gaps_go_with_those_of_the_routers_own_is_served(
    router: Path, ranks: np.ndarray, tmp_path: Path
) -> None:
    own, new = (table(tmp_path / str(seed), ranks - 1 + noise(seed) / 2) for seed in (1, 2))
    checked = transfer.check(str(router), new, CPU, own)
    assert checked.verdict == "serves"
    assert (checked.prompts, checked.shared, checked.seen) == (300, 300, 0)
    assert checked.gaps is not None
    assert checked.gaps.spearman.value == pytest.approx(0.88, abs=0.08)
    assert checked.drop["20"].value < checked.random_drop["20"].value  # type: ignore[operator]
    assert checked.sentences()[-1].startswith("The router serves the new pair: calibrate it")
    assert transfer.check(str(router), new, CPU).verdict == "serves", "by its scores alone too"


def test_a_pair_that_differs_where_the_routers_own_does_not_is_not_served(
    router: Path, ranks: np.ndarray, tmp_path: Path
) -> None:
    own, new = table(tmp_path / "own", ranks - 1), table(tmp_path / "new", -1.5 - ranks + noise(3))
    assert transfer.check(str(router), new, CPU, own).verdict == "does not serve"
    checked = transfer.check(str(router), new, CPU)
    assert checked.verdict == "does not serve"
    assert checked.sentences()[-1].startswith("The router does not serve the new pair: train one")


def test_gaps_that_correlate_less_than_the_papers_are_not_enough(
    router: Path, ranks: np.ndarray, tmp_path: Path
) -> None:
    own, new = (table(tmp_path / str(seed), ranks - 1 + 1.5 * noise(seed)) for seed in (1, 2))
    checked = transfer.check(str(router), new, CPU, own)
    assert checked.gaps is not None
    assert 0.3 < checked.gaps.pearson.value < 0.6  # type: ignore[operator]
    assert checked.verdict == "does not serve"


def test_few_prompts_cannot_tell(router: Path, ranks: np.ndarray, tmp_path: Path) -> None:
    own = table(tmp_path / "own", ranks - 1 + 1.2 * noise(1))
    new = table(tmp_path / "new", ranks - 1 + 1.2 * noise(2), rows=40)
    checked = transfer.check(str(router), new, CPU, own)
    assert (checked.verdict, checked.shared) == ("cannot tell", 40)
    assert "label more of them" in checked.sentences()[-1]


def test_the_table_of_the_routers_own_pair_must_be_that(router: Path, ranks: np.ndarray, tmp_path: Path) -> None:
    """Else the gaps of two strangers would be compared."""
    new = table(tmp_path / "new", ranks - 1)
    stranger = pq.read_table(new).replace_schema_metadata({"small_model": "a stranger"})
    pq.write_table(stranger, tmp_path / "stranger")
    notes = router.parent / "noted"
    shutil.copytree(router, notes)
    (notes / "router.json").write_text(json.dumps({"models": {"small": "s", "large": "l"}, "max_length": 64}))
    with pytest.raises(InputError, match=r"is of another pair of models than the router .* a stranger"):
        transfer.check(str(notes), new, CPU, str(tmp_path / "stranger"))


def test_gaps_that_are_all_the_same_cannot_tell(router: Path, tmp_path: Path) -> None:
    same = table(tmp_path / "same", np.zeros(300))
    checked = transfer.check(str(router), same, CPU, same)
    assert checked.verdict == "cannot tell"
    assert "not defined, one of them is constant" in " ".join(checked.sentences())


def test_tables_that_are_too_small_or_share_too_little_are_reported(
    router: Path, ranks: np.ndarray, tmp_path: Path
) -> None:
    new = table(tmp_path / "new", ranks - 1)
    with pytest.raises(InputError, match=r"has 29 different prompts: label at least 30"):
        transfer.check(str(router), table(tmp_path / "few", ranks - 1, rows=29), CPU)
    with pytest.raises(InputError, match=r"share 29 prompts: label at least 30 of the prompts of"):
        transfer.check(str(router), new, CPU, str(tmp_path / "few"))


def test_it_is_kept_as_json(router: Path, ranks: np.ndarray, tmp_path: Path) -> None:
    checked = transfer.check(str(router), table(tmp_path / "new", ranks - 1), CPU)
    assert Transfer.model_validate_json(checked.model_dump_json()) == checked
