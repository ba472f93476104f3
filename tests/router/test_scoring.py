from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, pipeline

from batchroute.errors import InputError, StoppedError
from batchroute.router.model import Router
from batchroute.router.neighbours import find_sharing
from batchroute.router.scoring import encode, score
from tests.support.tiny_models import POSITIONS, TEXT, tiny_router

CPU = torch.device("cpu")
ARCHITECTURES = ["bert", "roberta", "deberta", "modernbert", "gpt2"]
LONG = " ".join(TEXT * 3)
# Short and long in turn, as prompts arrive; two are longer than the model reads.
TEXTS = [
    TEXT[0],
    "a",
    LONG,
    "Ünïcode ☃ 你好",
    TEXT[1],
    "[CLS] not special [SEP]",
    TEXT[3][:9],
    LONG[5:],
    TEXT[2],
    "b c",
]


def load(folder: Path, architecture: str = "bert", **options: int) -> Router:
    return Router.load(str(tiny_router(folder, architecture, **options)), CPU)


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Router:
    return load(tmp_path_factory.mktemp("router"))


def ids_of(router: Router, text: str) -> torch.Tensor:
    return torch.tensor([router.tokenizer(text, truncation=True, max_length=router.max_length)["input_ids"]])


def one_by_one(router: Router, texts: list[str]) -> list[float]:
    scores = []
    for text in texts:
        with torch.inference_mode():
            logits = router.model(input_ids=ids_of(router, text)).logits
        scores.append(float(logits.sigmoid()[0, 0] if logits.shape[1] == 1 else logits.softmax(-1)[0, 1]))
    return scores


def batch_shapes(router: Router) -> list[tuple[int, int]]:
    """A list that grows by the shape of every batch the model is given."""
    shapes: list[tuple[int, int]] = []
    router.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("labels", [1, 2])
def test_scores_are_those_of_each_text_alone_in_input_order(tmp_path: Path, architecture: str, labels: int) -> None:
    router = load(tmp_path, architecture, labels=labels)
    expected = one_by_one(router, TEXTS)
    assert np.ptp(expected) > 0.01
    for budget in (1, 100, 10_000, None):
        scored = score(router, TEXTS, budget)
        assert scored.scores.dtype == np.float32
        np.testing.assert_allclose(scored.scores, expected, atol=1e-5)


def test_scores_equal_the_pipeline_of_transformers(router: Router) -> None:
    classify = pipeline("text-classification", model=router.name, device=CPU)
    expected = [row["score"] for row in classify(TEXTS, batch_size=4, truncation=True, max_length=router.max_length)]
    np.testing.assert_allclose(score(router, TEXTS).scores, expected, atol=1e-4)


def test_tokens_are_counted_before_the_cut(router: Router) -> None:
    scored = score(router, TEXTS)
    expected = [len(router.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert scored.tokens.dtype == np.int32
    assert scored.tokens.tolist() == expected
    assert scored.truncated.tolist() == [length > POSITIONS for length in expected]
    assert scored.truncated.sum() == 2


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("special_tokens", [True, False])
def test_cut_equals_the_tokenizers_own(tmp_path: Path, side: str, special_tokens: bool) -> None:
    router = load(tmp_path, "bert" if special_tokens else "gpt2")
    router.tokenizer.truncation_side = side
    for router.max_length in (3, 5, 17, POSITIONS):
        expected = router.tokenizer(TEXTS, truncation=True, max_length=router.max_length)["input_ids"]
        assert encode(router, TEXTS).features["input_ids"] == expected


@settings(max_examples=50, deadline=None)
@given(text=st.text(min_size=1), max_length=st.integers(3, 12))
def test_cut_equals_the_tokenizers_own_for_any_text(router: Router, text: str, max_length: int) -> None:
    shortened = Router(router.model, router.tokenizer, CPU, max_length)
    expected = router.tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    assert encode(shortened, [text]).features["input_ids"] == [expected]


def test_batches_keep_to_the_budget_and_are_sorted(tmp_path: Path) -> None:
    router = load(tmp_path)
    shapes = batch_shapes(router)
    texts = [f"{text} {number}" for number in range(5) for text in TEXTS]
    score(router, texts, token_budget=200)
    assert all(rows * width <= 200 for rows, width in shapes)
    assert [width for _, width in shapes] == sorted((width for _, width in shapes), reverse=True)
    real = int(encode(router, texts).lengths.sum())
    padded = sum(rows * width for rows, width in shapes)
    assert padded < 1.15 * real
    # In arrival order, eight at a time, every batch would hold a long text.
    assert len(texts) * POSITIONS > 1.5 * padded


def test_a_text_longer_than_the_budget_goes_alone(tmp_path: Path) -> None:
    router = load(tmp_path)
    shapes = batch_shapes(router)
    score(router, [LONG, f"{LONG}!", "a"], token_budget=10)
    assert shapes[:2] == [(1, POSITIONS), (1, POSITIONS)]


def test_a_text_that_is_there_several_times_is_read_once(tmp_path: Path) -> None:
    router = load(tmp_path)
    shapes = batch_shapes(router)
    texts = [TEXT[0], LONG, TEXT[0], TEXT[1], LONG, TEXT[0]]
    scored = score(router, texts, with_embeddings=True)
    assert sum(rows for rows, _ in shapes) == 3
    alone = [score(router, [text], with_embeddings=True) for text in texts]
    np.testing.assert_allclose(scored.scores, [one.scores[0] for one in alone], atol=1e-6)
    assert scored.tokens.tolist() == [one.tokens[0] for one in alone]
    assert scored.truncated.tolist() == [one.truncated[0] for one in alone]
    assert scored.embeddings is not None
    np.testing.assert_allclose(scored.embeddings, [one.embeddings[0] for one in alone], atol=1e-5)


def limit_memory(router: Router, tokens: int) -> list[int]:
    """Let the model run out of memory above `tokens` in a batch; the list grows by the size of each such batch."""
    refused = []

    def check(_module: object, _args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if (size := kwargs["input_ids"].numel()) > tokens:
            refused.append(size)
            raise torch.OutOfMemoryError("CUDA out of memory")

    router.model.register_forward_pre_hook(check, with_kwargs=True)
    return refused


def test_out_of_memory_halves_the_budget_and_repeats(tmp_path: Path) -> None:
    router = load(tmp_path)
    expected = score(router, TEXTS).scores
    refused = limit_memory(router, 150)
    np.testing.assert_allclose(score(router, TEXTS).scores, expected, atol=1e-5)
    assert refused == [640, 320]
    # The next texts start from what fitted.
    assert router.token_budget == 160
    score(router, TEXTS)
    assert len(refused) == 2


def test_a_text_that_never_fits_in_memory_has_no_score(tmp_path: Path) -> None:
    router = load(tmp_path)
    lengths = encode(router, TEXTS).lengths
    limit_memory(router, POSITIONS - 1)
    np.testing.assert_array_equal(np.isnan(score(router, TEXTS).scores), lengths == POSITIONS)
    assert router.raised == "OutOfMemoryError"


def test_an_error_of_the_model_is_not_taken_for_lack_of_memory(tmp_path: Path) -> None:
    router = load(tmp_path)
    embeddings = router.model.get_input_embeddings()
    embeddings.weight = torch.nn.Parameter(embeddings.weight[:10])
    budget = router.token_budget
    assert np.isnan(score(router, TEXTS).scores).all()
    assert (router.raised, router.token_budget) == ("IndexError", budget)


def test_no_texts_give_no_scores(router: Router) -> None:
    scored = score(router, [])
    assert (scored.scores.shape, scored.tokens.shape, scored.truncated.shape) == ((0,), (0,), (0,))


def test_a_model_that_gives_no_number_gives_nan(tmp_path: Path) -> None:
    router = load(tmp_path)
    torch.nn.init.constant_(router.model.classifier.bias, torch.nan)
    assert np.isnan(score(router, TEXTS).scores).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings_are_the_means_of_the_encoders_last_states_and_leave_the_scores_as_they_are(
    tmp_path: Path, architecture: str
) -> None:
    router = load(tmp_path, architecture)
    encoder = AutoModelForSequenceClassification.from_pretrained(tmp_path).base_model
    expected = []
    for text in TEXTS:
        with torch.inference_mode():
            expected.append(encoder(input_ids=ids_of(router, text)).last_hidden_state[0].mean(dim=0).numpy())
    for budget in (1, 100, 10_000):
        scored = score(router, TEXTS, budget, with_embeddings=True)
        assert scored.embeddings is not None
        assert scored.embeddings.dtype == np.float32
        np.testing.assert_allclose(scored.embeddings, np.stack(expected), atol=1e-4)
        np.testing.assert_allclose(scored.scores, score(router, TEXTS, budget).scores, atol=1e-5)
    assert not router.model.base_model._forward_hooks


def test_embeddings_are_only_there_when_asked_for(router: Router) -> None:
    assert score(router, TEXTS).embeddings is None
    assert score(router, [], with_embeddings=True).embeddings is None


def test_a_model_that_shows_no_states_still_scores(tmp_path: Path) -> None:
    router = load(tmp_path, "roberta")
    expected = score(router, TEXTS).scores
    # Its output is then that of the classifier.
    router.model.base_model_prefix = "none"
    scored = score(router, TEXTS, with_embeddings=True)
    assert scored.embeddings is None
    np.testing.assert_allclose(scored.scores, expected, atol=1e-5)


def test_embeddings_keep_their_order_when_memory_runs_out(tmp_path: Path) -> None:
    router = load(tmp_path)
    expected = score(router, TEXTS, with_embeddings=True).embeddings
    limit_memory(router, 150)
    scored = score(router, TEXTS, with_embeddings=True).embeddings
    assert expected is not None
    assert scored is not None
    np.testing.assert_allclose(scored, expected, atol=1e-5)


def test_long_texts_are_tokenised_some_at_a_time_as_they_are_together(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{word} " * number for number, word in enumerate(["one", "two", "three", "four", "five"] * 3, 1)]
    together = encode(router, texts)
    monkeypatch.setattr("batchroute.router.scoring._CHARACTERS_AT_ONCE", 40)
    apart = encode(router, texts)
    assert apart.features == together.features
    assert np.array_equal(apart.tokens, together.tokens)
    assert encode(router, []).tokens.shape == (0,)


def test_the_end_of_the_run_is_no_error_of_a_text(tmp_path: Path) -> None:
    """Where another rank dies, a signal's handler raises in the middle of a batch."""
    router = load(tmp_path)

    def end(*_: object) -> None:
        raise StoppedError("rank 1 of 2 died")

    router.model.register_forward_pre_hook(end)
    with pytest.raises(StoppedError, match="rank 1 of 2 died"):
        score(router, TEXTS)
    with pytest.raises(StoppedError, match="rank 1 of 2 died"):
        find_sharing(router)


def test_a_text_that_the_model_raises_on_has_no_score(tmp_path: Path) -> None:
    router = load(tmp_path, "deberta")
    expected = score(router, TEXTS).scores
    router.tokenizer.add_tokens(["<|new|>"])
    marked = [*TEXTS[:4], "it has <|new|> in it", *TEXTS[4:]]
    scores = score(router, marked, with_embeddings=True)
    assert np.flatnonzero(np.isnan(scores.scores)).tolist() == [4]
    np.testing.assert_allclose(np.delete(scores.scores, 4), expected, atol=1e-5)
    assert scores.embeddings is not None
    assert np.isnan(scores.embeddings[4]).all()

    def no_foxes(module: object, inputs: object, named: dict[str, torch.Tensor]) -> None:
        if any(text in "".join(router.tokenizer.batch_decode(named["input_ids"])) for text in ("fox",)):
            raise ValueError("no foxes")

    router.model.register_forward_pre_hook(no_foxes, with_kwargs=True)
    lost = [number for number, text in enumerate(TEXTS) if "fox" in text]
    assert lost
    assert np.flatnonzero(np.isnan(score(router, TEXTS).scores)).tolist() == lost


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_no_score(tmp_path: Path, value: float, labels: int) -> None:
    router = load(tmp_path, labels=labels)
    (token,) = router.tokenizer("a", add_special_tokens=False)["input_ids"]
    router.model.get_input_embeddings().weight.data[token] = value
    assert np.isnan(score(router, ["b", "a"]).scores).tolist() == [False, True]


def test_twenty_texts_in_a_row_without_a_score_end_the_run(router: Router) -> None:
    lost = np.full(10, np.nan, np.float32)
    router.count_unscored(lost)
    router.count_unscored(np.array([*lost, 0.5, *lost], np.float32))
    with pytest.raises(InputError, match="has no score for 20 texts in a row: it gives NaN"):
        router.count_unscored(lost)


def test_texts_that_change_each_other_share_no_batch(tmp_path: Path) -> None:
    router = load(tmp_path)
    assert (router.sharing, router.notes) == ("padded", [])

    def without_mask(module: object, given: tuple[object, ...], named: dict[str, object]) -> object:
        return given, {**named, "attention_mask": None}

    hook = router.model.register_forward_pre_hook(without_mask, with_kwargs=True)
    assert find_sharing(router) == "equal lengths"
    router.share("equal lengths")
    assert router.notes[-1].endswith("only texts of equal length share a batch, which is slower")
    np.testing.assert_allclose(score(router, TEXTS).scores, one_by_one(router, TEXTS), atol=1e-5)
    shapes = batch_shapes(router)
    score(router, ["a b c d", "a b d c", "b"])
    assert sorted(rows for rows, _ in shapes) == [1, 2]
    hook.remove()
    router.model.register_forward_hook(lambda module, given, out: out.logits.add_(out.logits.sum(dim=0)) and None)
    assert find_sharing(router) == "singly"
    router.share("padded")
    assert router.sharing == "equal lengths"
    router.share("singly")
    shapes.clear()
    score(router, ["a b c d", "a b d c", "b"])
    assert [rows for rows, _ in shapes] == [1, 1, 1]
