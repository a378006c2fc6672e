"""Train and predict with PyTorch as its users write it: a bare loop, or plain Lightning.

Prints one JSON line. Imports nothing of medvision. ``--fast`` turns on what a careful user knows:
bfloat16 autocast, channels-last memory and the fused optimizer.
"""

import argparse
import csv
import json
import resource
import time
import warnings
from contextlib import nullcontext
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


def fast(given):
    return torch.autocast(given.device, torch.bfloat16) if given.fast else nullcontext()


class UNet(nn.Module):
    def __init__(self, base):
        super().__init__()
        widths = [base * 2**level for level in range(5)]
        self.down = nn.ModuleList(
            self.conv(fan_in, width) for fan_in, width in zip([3, *widths], widths, strict=False)
        )
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in widths[-2::-1]
        )
        self.up = nn.ModuleList(self.conv(2 * width, width) for width in widths[-2::-1])
        self.head = nn.Conv2d(base, 1, 1)

    @staticmethod
    def conv(fan_in, width):
        first, second = (
            nn.Conv2d(fan_in, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
        )
        return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))

    def forward(self, x):
        skips = []
        for level, down in enumerate(self.down):
            x = down(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for grow, up in zip(self.grow, self.up, strict=True):
            x = up(torch.cat([skips.pop(), grow(x)], dim=1))
        return self.head(x)


def make(given, classes):
    if given.model == "unet":
        return UNet(given.base), F.binary_cross_entropy_with_logits
    if given.model == "alexnet":
        from torchvision.models import alexnet

        return alexnet(num_classes=classes), F.cross_entropy
    import timm

    return timm.create_model(given.model, num_classes=classes), F.cross_entropy


class Files(Dataset):
    def __init__(self, rows, given, classes):
        self.rows, self.given, self.classes = rows, given, classes

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        path, target = self.rows[index]
        size = (self.given.size, self.given.size)
        image = Image.open(self.given.data / path).convert("RGB").resize(size)
        image = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
        if self.given.model != "unet":
            return image, self.classes.index(target)
        mask = Image.open(self.given.data / target).convert("L").resize(size, Image.NEAREST)
        return image, torch.from_numpy((np.asarray(mask) > 127).astype(np.float32))[None]


def bare(model, loss, loader, given):
    """Images per second after the first two steps."""
    model.to(given.device)
    if given.fast:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), given.lr, fused=given.fast or None)
    times, last = [], time.perf_counter()
    for image, target in islice(cycle(loader), given.steps):
        image = image.contiguous(memory_format=torch.channels_last) if given.fast else image
        image, target = image.to(given.device), target.to(given.device)
        with fast(given):
            out = model(image)
        optimizer.zero_grad()
        loss(out.float(), target).backward()
        optimizer.step()
        if given.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        times.append(now - last)
        last = now
    return given.batch * len(times[2:]) / sum(times[2:])


def with_lightning(model, loss, loader, given):
    """The same through a LightningModule and a Trainer with its defaults."""
    import pytorch_lightning as pl

    warnings.simplefilter("ignore")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.times = model, []

        def training_step(self, batch, batch_idx):
            image, target = batch
            value = loss(self.model(image), target)
            self.log("train_loss", value)
            return value

        def on_train_batch_end(self, *_):
            if given.device == "cuda":
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), given.lr)

    module = Module()
    precision = "bf16-mixed" if given.fast else None
    where = given.out or Path("lightning_logs")
    trainer = pl.Trainer(
        accelerator=given.device, max_steps=given.steps, precision=precision, default_root_dir=where
    )
    trainer.fit(module, loader)
    return given.batch * (len(module.times) - 2) / (module.times[-1] - module.times[1])


def predict_files(model, given):
    """Masks of a folder of images, at the size of each file, written as PNG; images per second."""
    paths = sorted(path for path in given.predict.iterdir() if path.is_file())[: given.predictions]
    given.out.mkdir(parents=True, exist_ok=True)
    model.to(given.device).eval()

    def run(chosen):
        for first in range(0, len(chosen), given.batch):
            some = chosen[first : first + given.batch]
            images = [Image.open(path).convert("RGB") for path in some]
            arrays = [np.asarray(image.resize((given.size, given.size))) for image in images]
            batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
            batch = (batch if given.fast else batch.contiguous()).to(given.device)
            with torch.inference_mode(), fast(given):
                masks = model(batch).float().sigmoid().cpu()
            for path, image, mask in zip(some, images, masks, strict=True):
                field = Image.fromarray((mask[0].numpy() * 255).astype(np.uint8)).resize(image.size)
                field.point(lambda value: 255 * (value >= 128)).save(given.out / f"{path.stem}.png")

    run(paths[: given.batch])
    started_s = time.perf_counter()
    run(paths)
    return len(paths) / (time.perf_counter() - started_s)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="unet", help="unet, alexnet, or a name of timm")
    parser.add_argument("--loop", choices=["bare", "lightning"], default="bare")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--data", type=Path, required=True, help="root of the data set")
    parser.add_argument("--splits", type=Path, required=True, help="split,path,target")
    parser.add_argument("--base", type=int, default=64, help="filters of the first level")
    parser.add_argument("--size", type=int, default=256, help="pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--predict", type=Path, help="folder of images")
    parser.add_argument("--predictions", type=int, help="how many of them; all")
    parser.add_argument("--out", type=Path, help="folder of the masks")
    given = parser.parse_args()

    torch.manual_seed(0)
    with given.splits.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    train = [(row["path"], row["target"]) for row in rows if row["split"] == "train"]
    classes = sorted({row["target"] for row in rows})
    model, loss = make(given, len(classes))
    loader = DataLoader(
        Files(train, given, classes),
        batch_size=given.batch,
        shuffle=True,
        num_workers=given.workers,
        drop_last=True,
        persistent_workers=given.workers > 0,
    )
    figures = {}
    if given.steps:
        loop = bare if given.loop == "bare" else with_lightning
        figures["train_images_per_s"] = loop(model, loss, loader, given)
        figures["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if given.device == "cuda":
            figures["peak_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    if given.predict:
        figures["predict_images_per_s"] = predict_files(model, given)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({**figures, "parameters": count}))


if __name__ == "__main__":
    main()
