from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvision.callbacks import SegmentationPredictions
from medvision.data.sources import PolypPhantoms
from medvision.metrics.overlap import auroc
from medvision.types import IGNORE_INDEX

SOURCE = PolypPhantoms(size_px=16, seed=0, channels=3, num_images=6)


class Kept:
    """Stand-in for the conventions that records their input."""

    def __init__(self) -> None:
        self.counted = 0

    def update(self, confusion: Any, probability: Any, target: Any) -> None:
        assert len(confusion) == len(probability) == len(target)
        self.counted += len(confusion)


def predictions(folder: Path, conventions: Any) -> SegmentationPredictions:
    return SegmentationPredictions(
        folder=folder,
        stage="test",
        samples=SOURCE.index().samples[:3],
        source=SOURCE,
        class_names=["background", "polyp"],
        conventions=conventions,
    )


def batch(index: list[int]) -> Any:
    samples = SOURCE.index().samples[:3]
    ignored = np.full((16, 16), IGNORE_INDEX, np.uint8)
    targets = [ignored if row < 0 else SOURCE.read(samples[row])[1] for row in index]
    return {"target": torch.from_numpy(np.stack(targets)), "index": torch.tensor(index)}


@pytest.mark.parametrize("empty", [torch.nan, 0.0])
def test_padding_rows_are_neither_scored_nor_written(tmp_path: Path, empty: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 16, 16, generator=generator)
    padding = torch.full((1, 1, 16, 16), empty)
    plain, padded = (predictions(tmp_path / name, Kept()) for name in ("plain", "padded"))
    stub: Any = None
    plain.on_test_batch_end(stub, stub, logits, batch([0, 1, 2]), 0)
    padded.on_test_batch_end(stub, stub, logits[:2], batch([0, 1]), 0)
    padded.on_test_batch_end(stub, stub, torch.cat([logits[2:], padding]), batch([2, -1]), 1)
    padded.on_test_batch_end(stub, stub, padding, batch([-1]), 2)
    assert repr(padded.rows) == repr(plain.rows)  # NaN is not equal to itself
    assert [row["path"] for row in padded.rows] == [s.path for s in SOURCE.index().samples[:3]]
    assert np.array_equal(padded.confusion, plain.confusion)
    assert np.array_equal(padded.histogram, plain.histogram)
    assert padded.conventions.counted == 3
    assert len(list((tmp_path / "padded").rglob("*.png"))) == 3


def test_bins_are_grouped_once_there_are_many_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 9
    whole, grouped = (predictions(tmp_path / name, None) for name in ("whole", "grouped"))
    stub: Any = None
    for row in range(3):
        whole.on_test_batch_end(stub, stub, logits[row : row + 1], batch([row]), row)
    monkeypatch.setattr("medvision.callbacks.predictions.MOST_ENTRIES", 300)  # of two images
    for row in range(3):
        grouped.on_test_batch_end(stub, stub, logits[row : row + 1], batch([row]), row)
    assert grouped._group is not None
    assert whole._group is None
    assert np.array_equal(grouped.histogram.sum(axis=2), whole.histogram.sum(axis=2))
    areas = [
        auroc(torch.from_numpy(seen.histogram.sum(axis=0))).item() for seen in (whole, grouped)
    ]
    assert areas[1] == pytest.approx(areas[0], abs=2e-3)
