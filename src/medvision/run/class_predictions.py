"""Read what a classifier said about every image of a split, as its run or evaluation wrote it."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_class_predictions(
    path: Path, class_names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probability of each class (N, K) and class index (N,) of each image, every digit of them.

    Args:
        path: A ``predictions_<split>.csv``.
        class_names: The K classes.
    """
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = list(class_names)
    probability = [[float(row[f"probability/{name}"]) for name in names] for row in rows]
    target = np.array([names.index(row["target"]) for row in rows], np.int64)
    return np.array(probability).reshape(len(rows), len(names)), target
