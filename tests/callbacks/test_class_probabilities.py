from typing import Any

import torch

from medvision.callbacks import ClassProbabilities
from medvision.types import IGNORE_INDEX


def batch(index: list[int]) -> Any:
    target = torch.tensor([IGNORE_INDEX if row < 0 else row % 2 for row in index])
    return {"target": target.to(torch.uint8), "index": torch.tensor(index)}


def test_padding_rows_are_not_kept() -> None:
    seen, trainer = ClassProbabilities(), Any
    logits = torch.tensor([[0.0], [1.0], [torch.nan]])
    seen.on_test_batch_end(trainer, trainer, logits, batch([4, 1, -1]), 0)
    seen.on_validation_batch_end(trainer, trainer, logits[2:], batch([-1]), 1)
    assert seen.index.tolist() == [4, 1]
    assert seen.target.tolist() == [0, 1]
    assert seen.logits.tolist() == [[0, 0], [0, 1]]
    assert seen.probability.shape == (2, 2)
