from __future__ import annotations

import torch

from batchroute.models.pooling import mean_of_tokens


def test_padding_does_not_count() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [9.0, 9.0]]]).bfloat16()
    means = mean_of_tokens(hidden, torch.tensor([[1, 1], [1, 0]]))
    assert means.tolist() == [[2.0, 3.0], [5.0, 6.0]]
    assert means.dtype == torch.float32
    assert mean_of_tokens(hidden, None).tolist() == [[2.0, 3.0], [7.0, 7.5]]
