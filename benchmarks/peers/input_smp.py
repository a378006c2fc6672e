"""Files to batches as the examples of segmentation-models-pytorch read CamVid."""

import os
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import torch
from input_timing import BATCH, DEGREES, IMAGE_PX, Pairs, arguments, pairs_in, report
from torch.utils.data import DataLoader, Dataset


class Folder(Dataset[Any]):
    """Images by OpenCV, both changed by albumentations."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.transform = A.Compose(
            [
                A.Resize(IMAGE_PX, IMAGE_PX),
                A.HorizontalFlip(p=0.5),
                A.Rotate(limit=DEGREES, p=1.0),
            ]
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> Any:
        image_path, mask_path = self.pairs[row]
        image = cv2.cvtColor(cv2.imread(image_path), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(mask_path, 0)
        sample = self.transform(image=image, mask=mask)
        return sample["image"].transpose(2, 0, 1), (sample["mask"] > 127).astype("uint8")


def main() -> None:
    """Measure."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pairs = pairs_in(arguments("decode").data)

    def epoch(chosen: Pairs) -> Any:
        for images, _ in DataLoader(Folder(chosen), BATCH, shuffle=True):
            yield len(images)

    report(lambda: epoch(pairs), warm_up=lambda: epoch(pairs[:16]))


if __name__ == "__main__":
    main()
