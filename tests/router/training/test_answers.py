"""A reader of answers: heads that learn from the small model's responses, each with its prompt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from batchroute.confidence.answers import Answers
from batchroute.confidence.calibrate import calibrate_confidence
from batchroute.confidence.reader import check_reader, with_readings
from batchroute.errors import InputError
from batchroute.router.calibration.calibrate import calibrate
from batchroute.router.evaluation import transfer
from batchroute.router.evaluation.evaluate import evaluate
from batchroute.router.model import Router
from batchroute.router.notes import ROUTER_FILE, Notes
from batchroute.router.reading import identity_of, joined
from batchroute.router.scoring import score
from batchroute.router.training.adding import table_of, with_added
from batchroute.router.training.answers import one_a_response, texts_of
from batchroute.router.training.train import train
from batchroute.tables import quality_table, response_columns
from tests.router.training.trainings import CPU, options

pytestmark = pytest.mark.usefixtures("few_trees")

GOOD, BAD = "the answer is blue", "no idea"
METADATA = {"small_model": "small", "large_model": "large", "metric": "exact_match"}


def answered_table(path: Path, rows: int = 200, kept: str = "column") -> str:
    """Prompts that say nothing, and answers that say whether they are right: the first, or the second, or neither."""
    texts = [[[GOOD, BAD], [BAD, GOOD], [BAD, BAD]][row % 3] for row in range(rows)]
    columns = {
        "prompt": [f"question {row} of {row % 7}" for row in range(rows)],
        "small_quality": [[float(text == GOOD) for text in some] for some in texts],
        "large_quality": [[1.0, 1.0]] * rows,
    }
    responses = {"small_responses": texts}
    table = pa.table({**columns, **(responses if kept == "column" else {})})
    pq.write_table(table.replace_schema_metadata(METADATA), path)
    if kept == "beside":
        pq.write_table(pa.table({"prompt": columns["prompt"], **responses}), response_columns.beside(path))
    return str(path)


@pytest.fixture(scope="module")
def trained(few_trees: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A reader's folder and its table; 80 of its 200 prompts are left aside."""
    folder = tmp_path_factory.mktemp("reader")
    table = answered_table(folder / "table.parquet", kept="beside")
    said: list[str] = []
    chosen = options(folder, table, method="auto", reads="answer", test=0.4)
    result = train(chosen, on_note=said.append)
    assert (result.method, result.train_rows) == ("heads", 240)
    assert "240 answers to 120 prompts to learn from" in said
    return result.output, table


def test_a_reader_tells_good_answers_from_bad_ones(trained: tuple[Path, str]) -> None:
    reader = Router.load(str(trained[0]), CPU, reads="answer")
    asked = [f"question {number} of {number % 7}" for number in range(900, 920)]
    good, bad = (score(reader, [joined(prompt, answer) for prompt in asked]).scores for answer in (GOOD, BAD))
    assert good.min() > bad.max()


def test_its_notes_say_what_it_reads_and_which_prompts_it_saw(trained: tuple[Path, str]) -> None:
    folder, table = trained
    assert json.loads((folder / ROUTER_FILE).read_text())["reads"] == "answer"
    assert len(Notes.read(str(folder)).held_out(quality_table.read(table))) == 80


def test_its_reading_is_a_signal_on_rows_that_it_never_saw(trained: tuple[Path, str]) -> None:
    folder, path = trained
    whole = quality_table.read(path, responses=True)
    scores = np.arange(len(whole), dtype=np.float32)
    table, kept = with_readings(whole, scores, str(folder), CPU)
    assert kept is not None
    assert [whole.prompts[int(row)] for row in kept] == table.prompts
    assert len(table) == 80
    answers = Answers.of(table)
    good, bad = (answers.signals.reading[answers.small == quality] for quality in (1.0, 0.0))
    assert good.min() > bad.max()
    calibration = calibrate_confidence(table, None, reader=identity_of(str(folder)))
    assert set(calibration.model.columns) == {"reading"}
    elsewhere = calibration.model_copy(update={"table_sha256": "of another table"})
    check_reader(table, str(folder), elsewhere)
    with pytest.raises(InputError, match="calibrated with a reader of answers: name that very reader with --reader"):
        check_reader(table, None, elsewhere)
    # A third of the answers is right, and to keep these costs nothing.
    free = [point.cost_advantage for point in calibration.points if point.drop <= 0]
    assert max(free) == pytest.approx(1 / 3, abs=0.05)


def test_a_reader_of_all_rows_has_none_left(trained: tuple[Path, str]) -> None:
    table = quality_table.read(trained[1], responses=True)
    seen = Notes.read(str(trained[0])).trained
    assert len(seen) == 120
    rows = [row for row in range(len(table)) if row not in Notes.read(str(trained[0])).unseen(table)]
    with pytest.raises(InputError, match=r"the reader '.*' was trained on 120 of 120 rows .* which leaves 0: at least"):
        with_readings(table.take(rows), None, str(trained[0]), CPU)


def test_a_reader_is_refused_where_prompts_are_read_alone(trained: tuple[Path, str]) -> None:
    reader, table = str(trained[0]), trained[1]
    words = "reads prompts with answers, and here prompts are read alone: name it with --reader, or in a job as models"
    for refuses in (
        lambda: calibrate(table, reader, CPU),
        lambda: evaluate(table, [reader], CPU, resamples=100),
        lambda: transfer.check(reader, table, CPU),
    ):
        with pytest.raises(InputError, match=words):
            refuses()


def test_another_folder_is_no_reader(trained: tuple[Path, str]) -> None:
    table = quality_table.read(trained[1], responses=True)
    base = str(trained[0].parent.parent / "base")
    with pytest.raises(InputError, match=r"'.*base' is no reader of answers: it reads prompts alone"):
        with_readings(table, None, base, CPU)
    with pytest.raises(InputError, match="there is no reader 'nowhere': name a directory that 'batchroute train"):
        with_readings(table, None, "nowhere", CPU)


# Rows to learn from


def test_each_response_is_a_row_with_its_own_quality(tmp_path: Path) -> None:
    table = quality_table.read(answered_table(tmp_path / "t.parquet", rows=3), responses=True)
    rows = one_a_response(table)
    assert rows.prompts == [prompt for prompt in table.prompts for _ in range(2)]
    assert [quality.tolist() for quality in rows.small] == [[1.0], [0.0], [0.0], [1.0], [0.0], [0.0]]
    assert {tuple(quality) for quality in rows.large} == {(1.0, 1.0)}
    assert rows.weights is not None
    assert rows.weights.tolist() == [0.5] * 6
    assert texts_of(rows, "answer")[0] == f"question 0 of 0\n\n{GOOD}"
    assert texts_of(rows, "prompt") == rows.prompts


def test_rows_without_a_response_for_each_quality_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table(
        {
            "prompt": [f"p{row}" for row in range(60)],
            "small_quality": [[1.0], [0.0, 1.0]] * 30,
            "large_quality": [[1.0], [0.5]] * 30,
            # A response that failed is null, and has no quality.
            "small_responses": [["one"], [None, "two", "three", "four"]] * 30,
        }
    )
    pq.write_table(table, path)
    said: list[str] = []
    with pytest.raises(InputError, match="has 30 rows to train and validate on"):
        train(options(tmp_path, str(path), method="auto", reads="answer"), on_note=said.append)
    assert any("30 rows are left out, since they have not one response" in line for line in said)


def test_what_an_audit_adds_is_read_too(tmp_path: Path) -> None:
    table = table_of(answered_table(tmp_path / "t.parquet", rows=3), True, pytest.fail)
    added = answered_table(tmp_path / "night.parquet", rows=4, kept="beside")
    whole = with_added(table, np.arange(2), {"question 2 of 2"}, [added], lambda line: None)
    assert whole.responses == [[GOOD, BAD, GOOD, BAD], [BAD, GOOD, BAD, GOOD], [GOOD, BAD]]
    assert len(one_a_response(whole)) == 10


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ("nowhere", r"has no column 'small_responses', and there is no 't.responses.parquet' beside it: a reader of"),
        ("other", r"t.responses.parquet' does not hold the responses of the quality table '.*': its prompts are"),
        ("numbers", r"the column 'small_responses' of the quality table '.*' is int64: responses are text, or lists"),
        ("few", r"no row of the quality table '.*' has a response of the small model for each of its qualities"),
    ],
)
def test_a_table_without_responses_teaches_no_reader(tmp_path: Path, kept: str, words: str) -> None:
    path = tmp_path / "t.parquet"
    table = answered_table(path, kept="nowhere")
    prompts = pq.read_table(path)["prompt"]
    if kept == "other":
        others = pa.table({"prompt": prompts[:-1], "small_responses": [["a", "b"]] * 199})
        pq.write_table(others, response_columns.beside(path))
    if kept in ("numbers", "few"):
        column = [1] * 200 if kept == "numbers" else [["one"]] * 200
        pq.write_table(pq.read_table(path).append_column("small_responses", pa.array(column)), path)
    with pytest.raises(InputError, match=words):
        train(options(tmp_path, table, method="auto", reads="answer"))


def test_a_reader_is_not_fine_tuned(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="a reader of answers is heads on an encoder: leave --method and its"):
        options(tmp_path, "t.parquet", method="finetune", reads="answer")


def test_a_long_prompt_does_not_push_the_answer_out(trained: tuple[Path, str]) -> None:
    reader = Router.load(str(trained[0]), CPU, reads="answer")
    good, bad = score(reader, [joined("word " * 5000, answer) for answer in (GOOD, BAD)]).scores
    assert good > bad
    assert joined("word " * 5000, GOOD).endswith(f"\n\n{GOOD}")
    assert len(joined("x" * 9000, "y" * 9000)) < 4_000
