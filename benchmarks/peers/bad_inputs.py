"""Read folders in turn as three projects do; record what their users see.

    python benchmarks/peers/bad_inputs.py smp|monai|template OUT.json ROOT...

- smp: the data set of its CamVid example: os.listdir of the images, masks of the same file name,
  OpenCV, albumentations.
- monai: its dictionary tutorial: two sorted globs side by side, LoadImaged, Resized, DataLoader.
- template: lightning-hydra-template has a data module of MNIST; here its setup (random_split, then
  DataLoader) over two sorted globs side by side, read by torchvision's loader of ImageFolder.

Every folder is read for one epoch in a fork of its own.
"""

import glob
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, random_split

IMAGE_PX = 32
BATCH = 4
LONGEST_S = 60.0
MOST_BYTES = 8 * 2**30


def smp(root):
    import albumentations as A
    import cv2

    class Folder(Dataset):
        def __init__(self):
            self.ids = os.listdir(os.path.join(root, "images"))
            self.transform = A.Compose([A.Resize(IMAGE_PX, IMAGE_PX), A.HorizontalFlip(p=0.5)])

        def __len__(self):
            return len(self.ids)

        def __getitem__(self, i):
            image = cv2.imread(os.path.join(root, "images", self.ids[i]))
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            mask = cv2.imread(os.path.join(root, "masks", self.ids[i]), 0)
            sample = self.transform(image=image, mask=mask)
            image = sample["image"].transpose(2, 0, 1).astype("float32")
            return image, (sample["mask"] > 127).astype("float32")[None]

    return DataLoader(Folder(), batch_size=BATCH, shuffle=True)


def monai(root):
    from monai.data import Dataset as MonaiDataset
    from monai.data import list_data_collate
    from monai.transforms import (
        AsDiscreted,
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        RandFlipd,
        Resized,
        ScaleIntensityd,
    )

    images = sorted(glob.glob(os.path.join(root, "images", "*.png")))
    masks = sorted(glob.glob(os.path.join(root, "masks", "*.png")))
    files = [{"image": image, "mask": mask} for image, mask in zip(images, masks)]  # noqa: B905
    keys = ["image", "mask"]
    steps = Compose(
        [
            LoadImaged(keys=keys),
            EnsureChannelFirstd(keys=keys),
            ScaleIntensityd(keys=keys),
            Resized(keys=keys, spatial_size=(IMAGE_PX, IMAGE_PX), mode=("area", "nearest")),
            RandFlipd(keys=keys, prob=0.5, spatial_axis=0),
            AsDiscreted(keys="mask", threshold=0.5),
        ]
    )
    return DataLoader(
        MonaiDataset(files, steps), batch_size=BATCH, shuffle=True, collate_fn=list_data_collate
    )


def template(root):
    from torchvision.datasets.folder import default_loader
    from torchvision.transforms import Compose, Resize, ToTensor

    class Folder(Dataset):
        def __init__(self):
            self.images = sorted(glob.glob(os.path.join(root, "images", "*.png")))
            self.masks = sorted(glob.glob(os.path.join(root, "masks", "*.png")))
            self.transform = Compose([Resize((IMAGE_PX, IMAGE_PX)), ToTensor()])

        def __len__(self):
            return len(self.images)

        def __getitem__(self, i):
            image = self.transform(default_loader(self.images[i]))
            mask = self.transform(default_loader(self.masks[i]))[:1]
            return image, (mask > 0.5).float()

    data = Folder()
    lengths = [len(data) - 2 * (len(data) // 10), len(data) // 10, len(data) // 10]
    parts = random_split(data, lengths, generator=torch.Generator().manual_seed(42))
    return DataLoader(torch.utils.data.ConcatDataset(parts), batch_size=BATCH, shuffle=True)


def read(make, root):
    """Read every batch, and let the numbers reach a loss, as a training does."""
    count = 0
    for batch in make(root):
        images, masks = (
            (batch["image"], batch["mask"]) if isinstance(batch, dict) else (batch[0], batch[1])
        )
        images, masks = torch.as_tensor(images).float(), torch.as_tensor(masks).float()
        assert images.shape[-2:] == masks.shape[-2:] == (IMAGE_PX, IMAGE_PX)
        count += len(images)
    return count


def wrongly_paired(name, root):
    """Images beside which another one's mask is read, where sorted lists are laid side by side."""
    if name == "smp":
        return 0
    images, masks = (
        [os.path.basename(path) for path in sorted(glob.glob(os.path.join(root, part, "*.png")))]
        for part in ("images", "masks")
    )
    return sum(a != b for a, b in zip(images, masks))  # noqa: B905


def main():
    name, out, *roots = sys.argv[1:]
    make = {"smp": smp, "monai": monai, "template": template}[name]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:  # import everything once
        import cv2

        for part in ("images", "masks"):
            os.mkdir(os.path.join(folder, part))
            for k in range(10):
                grey = np.full((40, 40), 255 * (k % 2), np.uint8)
                cv2.imwrite(os.path.join(folder, part, f"{k}.png"), grey)
        read(make, folder)
    found = {}
    for root in roots:
        with tempfile.TemporaryFile("w+") as said:
            child = os.fork()
            if child == 0:
                os.dup2(said.fileno(), 2)
                os.dup2(said.fileno(), 1)
                resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
                code = 0
                try:
                    count = read(make, root)
                    os.write(2, f"read {count} wrong {wrongly_paired(name, root)}\n".encode())
                except BaseException:
                    traceback.print_exc()
                    sys.stderr.flush()
                    code = 1
                os._exit(code)
            began, code = time.monotonic(), None
            while time.monotonic() - began < LONGEST_S:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    code = os.waitstatus_to_exitcode(status)
                    break
                time.sleep(0.01)
            if code is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            said.seek(0)
            found[root] = {"code": code, "said": said.read()}
    with open(out, "w") as stream:
        json.dump(found, stream)


if __name__ == "__main__":
    main()
