"""Files to batches as MONAI's dictionary transforms do it, plain or with one of its caches."""

from typing import Any

import numpy as np
import torch
from input_timing import BATCH, DEGREES, IMAGE_PX, arguments, pairs_in, report
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset
from monai.transforms import (
    AsDiscreted,
    CastToTyped,
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandFlipd,
    RandRotated,
    Resized,
)

KEYS = ("image", "mask")


def steps() -> Any:
    """Read, resize, flip, turn, and back to bytes; the caches keep what comes before the flip."""
    turn = np.deg2rad(DEGREES)
    return Compose(
        [
            LoadImaged(keys=KEYS),
            EnsureChannelFirstd(keys=KEYS),
            Resized(keys=KEYS, spatial_size=(IMAGE_PX, IMAGE_PX), mode=("area", "nearest")),
            RandFlipd(keys=KEYS, prob=0.5, spatial_axis=0),
            RandRotated(keys=KEYS, range_x=turn, prob=1.0, mode=("bilinear", "nearest")),
            AsDiscreted(keys="mask", threshold=127),
            CastToTyped(keys=KEYS, dtype=torch.uint8),
        ]
    )


def main() -> None:
    """Measure."""
    torch.set_num_threads(1)
    given = arguments("decode", "memory", "disk")
    files = [dict(zip(KEYS, pair, strict=True)) for pair in pairs_in(given.data)]
    if given.mode == "memory":
        data: Any = CacheDataset(files, steps(), num_workers=1, progress=False)
    elif given.mode == "disk":
        data = PersistentDataset(files, steps(), cache_dir=given.scratch)
    else:
        data = Dataset(files, steps())

    def epoch(chosen: Any) -> Any:
        for batch in DataLoader(chosen, batch_size=BATCH, shuffle=True, num_workers=0):
            yield len(batch["image"])

    few = torch.utils.data.Subset(data, range(16))
    report(lambda: epoch(data), warm_up=lambda: epoch(few if given.mode == "decode" else data))


if __name__ == "__main__":
    main()
