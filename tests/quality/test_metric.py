"""A metric is a record in its own module: adding one touches no other file."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from batchroute import quality
from batchroute.commands.label.options import LabelOptions
from batchroute.commands.label.pipeline import label
from batchroute.progress import PlainProgress
from batchroute.quality.base import Item, MetricSpec
from batchroute.quality.metric import metric_records

BREVITY = """
from batchroute.quality.base import Measurement
from batchroute.quality.metric import MetricRecord


class Brevity:
    load_seconds = 0.0

    def measure(self, items):
        return [Measurement(1 / len(item.response)) for item in items]

    def close(self):
        pass


METRICS = (MetricRecord(name="brevity", load=lambda spec, device: Brevity(), needs_reference=False),)
"""


@pytest.fixture
def brevity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module next to the others, which is in `batchroute.quality` by its folder alone."""
    folder = tmp_path / "quality"
    folder.mkdir()
    (folder / "brevity.py").write_text(BREVITY)
    monkeypatch.setattr(quality, "__path__", [*quality.__path__, str(folder)])
    metric_records.cache_clear()
    yield
    metric_records.cache_clear()
    sys.modules.pop("batchroute.quality.brevity", None)


@pytest.mark.usefixtures("brevity")
def test_a_metric_that_is_added_as_one_file_measures_and_labels(tmp_path: Path) -> None:
    spec = MetricSpec(name="brevity")
    metric = quality.load(spec, lambda: pytest.fail("it needs no device"))
    assert [one.quality for one in metric.measure([Item("p", "ab"), Item("p", "a")])] == [0.5, 1.0]
    assert quality.named(quality.describe(spec)) == spec
    frame = pl.DataFrame({"prompt": ["p"], "small_responses": ["a"], "large_responses": ["abcd"]})
    frame.write_parquet(tmp_path / "log.parquet")
    values = {"prompts": str(tmp_path / "log.parquet"), "output": str(tmp_path / "q.parquet"), "metric": spec}
    outcome = label(LabelOptions.model_validate(values), PlainProgress(io.StringIO()))
    assert outcome.report.mean_quality == {"small": 1.0, "large": 0.25}


def test_looking_the_metrics_up_imports_neither_torch_nor_an_optional_package() -> None:
    heavy = ["torch", "transformers", "openai", "sacrebleu", "rouge_score"]
    code = (
        "import sys; from batchroute.quality.metric import metric_records; print(*metric_records()); "
        f"sys.exit(' '.join(name for name in {heavy} if name in sys.modules) or 0)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr.strip()) == (0, ""), shown.stderr
    assert shown.stdout.split() == [
        *("bartscore", "embedding", "judge", "likelihood", "exact_match", "contains", "rouge", "bleu", "chrf")
    ]  # fmt: skip


def test_a_device_is_asked_for_by_metrics_that_run_on_one_alone() -> None:
    for name in ("exact_match", "chrf"):
        quality.load(MetricSpec(name=name), lambda: pytest.fail("a device")).close()
