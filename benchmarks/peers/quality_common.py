"""Shared parts of the trainings whose score over time is measured: arguments, files, predictions.

A training reads `splits.csv` (split, path, target; paths below the data folder), trains on the
rows of `train`, may validate on those of `val`, and notes the time when the fit ends. Only then
the images of `val` and `test` are predicted, for the scores that benchmarks/quality.py computes.
"""

import argparse
import csv
import json
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

NETWORK = "tf_efficientnet_lite0"


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--way", required=True, help="of training; see the script")
    parser.add_argument("--task", choices=["segmentation", "classification"], required=True)
    parser.add_argument("--data", type=Path, required=True, help="root of the data set")
    parser.add_argument("--splits", type=Path, required=True, help="split,path,target")
    parser.add_argument("--weights", type=Path, required=True, help=f"of {NETWORK}, timm's names")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, required=True, help="pixels")
    parser.add_argument("--out", type=Path, required=True, help="folder of the predictions")
    return parser.parse_args()


def num_cores():
    return len(os.sched_getaffinity(0))


def read_rows(given):
    """Rows of the table, by split."""
    with given.splits.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        name: [row for row in rows if row["split"] == name] for name in ("train", "val", "test")
    }


def classes_of(split):
    return sorted({row["target"] for rows in split.values() for row in rows})


def read_image(path, size):
    """RGB image as the smp example's data set resizes it."""
    return np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.BILINEAR))


def read_mask(path):
    """0 and 1; masks stored as JPEG have grey edges."""
    return (np.asarray(Image.open(path).convert("L")) > 127).astype(np.uint8)


def write_mask(given, row, probability):
    """Mask at the size of the image file, from foreground probabilities at any size."""
    path = given.data / row["path"]
    width_height = Image.open(path).size
    field = Image.fromarray(np.asarray(probability, np.float32)).resize(
        width_height, Image.BILINEAR
    )
    mask = (np.asarray(field) >= 0.5).astype(np.uint8) * 255
    (given.out / "masks").mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(given.out / "masks" / f"{path.stem}.png")


def write_probabilities(given, rows, classes, probabilities):
    """Table as medvision's: path, target, predicted, probability/<class>."""
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "predictions.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "target", "predicted", *(f"probability/{c}" for c in classes)])
        for row, values in zip(rows, probabilities, strict=True):
            predicted = classes[int(np.argmax(values))]
            table.writerow([row["path"], row["target"], predicted, *map(float, values)])


def report(fit_ended, epoch_s):
    """Last line of the output, read by benchmarks/quality.py.

    fit_ended: seconds since 1970. epoch_s: duration of each epoch with its validation, without
    those of another kind, such as frozen ones.
    """
    print()
    print(json.dumps({"fit_ended": fit_ended, "epoch_s": epoch_s, "reported": time.time()}))
