"""Files to batches as torchvision's documentation of transforms v2 does it."""

from typing import Any

import torch
from input_timing import BATCH, DEGREES, IMAGE_PX, Pairs, arguments, pairs_in, report
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2


class Folder(Dataset[Any]):
    """Images and masks, both with the same chance."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.transform = v2.Compose(
            [
                v2.Resize((IMAGE_PX, IMAGE_PX), antialias=True),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomRotation(DEGREES, interpolation=v2.InterpolationMode.BILINEAR),
            ]
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> Any:
        image_path, mask_path = self.pairs[row]
        image = tv_tensors.Image(decode_image(read_file(image_path), ImageReadMode.RGB))
        mask = tv_tensors.Mask(decode_image(read_file(mask_path), ImageReadMode.GRAY))
        image, mask = self.transform(image, mask)
        return image.as_subclass(torch.Tensor), (mask[0] > 127).to(torch.uint8)


def main() -> None:
    """Measure."""
    torch.set_num_threads(1)
    pairs = pairs_in(arguments("decode").data)

    def epoch(chosen: Pairs) -> Any:
        for images, _ in DataLoader(Folder(chosen), BATCH, shuffle=True):
            yield len(images)

    report(lambda: epoch(pairs), warm_up=lambda: epoch(pairs[:16]))


if __name__ == "__main__":
    main()
