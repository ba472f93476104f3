from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from batchroute.errors import InputError
from batchroute.router.fast import int8
from batchroute.router.fast.int8 import Inputs, Int8Linear
from batchroute.router.model import Router
from batchroute.router.scoring import score
from tests.support.tiny_models import TEXT, tiny_router

CPU = torch.device("cpu")


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 8), (384, 16), (385, 7), (1000, 40)])
@pytest.mark.parametrize("bias", [True, False])
def test_in_int8are_those_of_the_linear_layer_but_for_a_percent(inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs, bias=bias)
    tokens = torch.nn.functional.gelu(torch.randn(3, 5, inputs) + torch.linspace(-3, 3, 5)[:, None])
    with torch.inference_mode():
        expected, in_int8 = linear(tokens), Int8Linear(linear)(tokens)
    assert in_int8.shape == expected.shape
    assert (in_int8 - expected).norm() < 0.01 * expected.norm()


def test_a_large_value_costs_only_its_neighbours_precision() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(4 * 384, 64)
    tokens = torch.randn(20, 4 * 384)
    tokens[:, 0] = 100
    with torch.inference_mode():
        expected = linear(tokens)
        in_groups = (Int8Linear(linear)(tokens) - expected).norm()
        together = (Int8Linear(linear, Inputs(group=4 * 384))(tokens) - expected).norm()
    assert in_groups < 0.6 * together


def test_a_token_that_is_the_same_in_all_inputs_is_exact() -> None:
    linear = nn.Linear(64, 4)
    with torch.inference_mode():
        linear.weight.copy_(torch.randint(-127, 128, (4, 64)).float())
        linear.weight[:, 0] = 127
        for value in (0.0, 1.0, -3.5):
            tokens = torch.full((2, 64), value)
            torch.testing.assert_close(Int8Linear(linear)(tokens), linear(tokens))


def test_a_tokens_in_int8do_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    linear = Int8Linear(nn.Linear(100, 30))
    tokens = torch.randn(50, 100)
    with torch.inference_mode():
        alone = torch.cat([linear(token[None]) for token in tokens])
        torch.testing.assert_close(linear(tokens * 1.0), alone)
        torch.testing.assert_close(linear(torch.cat([tokens, 1e4 * tokens]))[:50], alone)


def test_layers_that_share_their_inputs_round_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(40, 8) for _ in range(3)]
    first, second = torch.randn(2, 5, 40)
    with torch.inference_mode():
        expected = [[Int8Linear(linear)(tokens) for linear in linears] for tokens in (first, second)]
        inputs = Inputs(3)
        layers = [Int8Linear(linear, inputs) for linear in linears]
        rounded: list[object] = []
        of = int8._Rounded.of
        monkeypatch.setattr(int8._Rounded, "of", lambda tokens: rounded.append(tokens) or of(tokens))
        in_int8 = [[layer(tokens) for layer in layers] for tokens in (first, second)]
        assert len(rounded) == 2
        assert inputs._last is None
        # Whatever the order in which they read.
        for layer, number in ((0, 0), (0, 1), (1, 0), (2, 1)):
            assert torch.equal(layers[layer]((first, second)[number]), expected[number][layer])
    for ours, theirs in zip(in_int8, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "deberta", "modernbert"])
def test_scores_are_near_those_in_float32(tmp_path: Path, architecture: str) -> None:
    folder = str(tiny_router(tmp_path, architecture))
    texts = [f"{text} {number}" for number in range(10) for text in TEXT]
    expected = score(Router.load(folder, CPU), texts).scores
    router = Router.load(folder, CPU, precision="int8")
    assert any(isinstance(module, Int8Linear) for module in router.model.modules())
    assert any(isinstance(module, nn.Linear) for module in router.model.modules())
    in_int8 = score(router, texts).scores
    assert 0 < np.abs(in_int8 - expected).max() < 0.1
    assert np.corrcoef(in_int8, expected)[0, 1] > 0.99


def test_an_encoder_without_linear_layers_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^router.precision int8 is for encoders with linear layers: GPT2"):
        Router.load(str(tiny_router(tmp_path, "gpt2")), CPU, precision="int8")


def test_a_gpu_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^router.precision int8 is for CPUs, and this is a GPU: .*bfloat16$"):
        Router.load(str(tmp_path), torch.device("cuda"), precision="int8")


def test_a_cpu_that_cuts_sums_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without VNNI or AMX the sum of two products is cut at 16 bits."""
    cut = int8._Weights.products

    def products(weights: int8._Weights, inputs: int8._Rounded) -> torch.Tensor:
        return cut(weights, inputs).clamp(max=(1 << 15) - 1)

    monkeypatch.setattr(int8._Weights, "products", products)
    with pytest.raises(InputError, match=r"int8 needs a torch with oneDNN and a CPU with VNNI or AMX: leave it out$"):
        Router.load(str(tiny_router(tmp_path / "router")), CPU, "int8")


def test_the_inputs_are_unsigned() -> None:
    """oneDNN has no quick product of signed inputs without AMX."""
    rounded = int8._Rounded.of(torch.tensor([[-1.0, 0.5, 3.0]]))
    assert rounded.steps.dtype == torch.uint8
    assert rounded.steps.tolist() == [[1, 96, 255]]
