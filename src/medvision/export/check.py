"""Compare the outputs of an exported file and of the network in memory, on real images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvision.console import counted
from medvision.data.discovery.splits_csv import read_splits
from medvision.data.phantoms.brain import BRAIN_CLASSES, draw_brain
from medvision.data.phantoms.chest import CHEST_CLASSES, draw_chest
from medvision.data.phantoms.polyps import draw_polyp_scene
from medvision.data.samples import Sample
from medvision.errors import MedvisionError
from medvision.files import read_plain
from medvision.inference.inputs import find_inputs
from medvision.inference.model_card import ModelCard
from medvision.inference.results import Image
from medvision.task_definition import task_of

NUM_IMAGES = 8
"""Number of images used for the check."""


@dataclass(frozen=True, kw_only=True)
class CheckInputs:
    """Images at their original size.

    Attributes:
        images: Files, or uint8 (H, W, C).
        words: Description of the images and, if they are not from the run, the reason.
        notes: Sentences on images that were left out.
    """

    images: Sequence[Path | Image]
    words: str
    notes: Sequence[str] = ()


def choose_inputs(source: Path, card: ModelCard, *, given: Sequence[Path]) -> CheckInputs:
    """Choose the given images, else test images of the run, else phantoms.

    Args:
        source: The run folder or model file.
        card: Model card.
        given: Files and folders; may be empty.

    Raises:
        MedvisionError: If a given path contains no image, or the run's splits.csv is damaged.
    """
    if given:
        found, notes = find_inputs(given)
        words = f"{counted(len(found), 'image')} given"
        return CheckInputs(images=[one.path for one in found], words=words, notes=notes)
    tested, why_none = _test_images(source.expanduser())
    if tested:
        return CheckInputs(images=tested, words=f"{counted(len(tested), 'test image')} of the run")
    drawn = [draw_phantom(card, index, size_px=card.image_size) for index in range(NUM_IMAGES)]
    return CheckInputs(images=drawn, words=f"{NUM_IMAGES} phantoms, because {why_none}")


def _test_images(source: Path) -> tuple[list[Path], str]:
    """Find files spread evenly over the test split; if there are none, give the reason."""
    not_of_a_run = "the model is not in a run folder"
    if source.is_file() and source.absolute().parent.name != "checkpoints":
        return [], not_of_a_run
    run = source if source.is_dir() else source.absolute().parent.parent
    try:
        config = read_plain(run / "config.yaml")
        root, run_dir = config["data"]["root"], config.get("run_dir")
    except OSError:
        return [], not_of_a_run
    except (ValueError, KeyError, TypeError):
        return [], f"data.root is missing in {run / 'config.yaml'}"
    if root is None:
        return [], "the run was trained on phantoms"
    if not (run / "splits.csv").is_file():
        return [], "the run folder has no splits.csv"
    samples = [sample for sample in read_splits(run / "splits.csv") if sample.split == "test"]
    if not samples:
        return [], "the run has no test images"
    for folder in _places(str(root), run, run_dir):
        if files := _existing(folder, samples):
            return files, ""
    return [], f"the test images of the run are not in {root}"


def _places(root: str, run: Path, run_dir: Any) -> list[Path]:
    """List possible locations of a data root: relative to here, or to the run's start folder."""
    path = Path(root).expanduser()
    places = [path]
    started, here = Path(str(run_dir or "")).parts, run.resolve().parts
    if not path.is_absolute() and started and here[-len(started) :] == started:
        places.append(Path(*here[: -len(started)]) / path)
    return places


def _existing(root: Path, samples: Sequence[Sample]) -> list[Path]:
    rows = np.linspace(0, len(samples) - 1, min(NUM_IMAGES, len(samples))).round().astype(int)
    files = [root / samples[row].path for row in rows]
    return [file for file in files if file.is_file()]


def draw_phantom(card: ModelCard, index: int, *, size_px: int) -> Image:
    """Draw a phantom that resembles the images the network is for."""
    if task_of(card.task).per_pixel:
        return draw_polyp_scene(index, size_px=size_px)[0]
    chest = set(card.class_names) <= set(CHEST_CLASSES)
    draw, classes = (draw_chest, CHEST_CLASSES) if chest else (draw_brain, BRAIN_CLASSES)
    return draw(index, index % len(classes), size_px=size_px, seed=0)


LOGIT_TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit (to 1 if that is smaller).
Two libraries add float32 numbers in different orders: measured on trained networks of this
package up to 3e-6. A wrong layer, weight or rounding causes more than 1e-2."""

PROBABILITY_TOLERANCE = 1e-3
"""Largest difference of probabilities: a quarter of a level of an 8-bit probability map, measured
up to 1e-5. Where the largest logit is 40 or more it is the stricter of the two."""

BATCH_SIZE = 4

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Logits and probabilities."""

Runner = Callable[[NDArray[np.uint8]], Outputs]
"""Function from images (N, S, S, C) to outputs."""


class WithProbability(nn.Module):
    """A network that returns probabilities together with its logits.

    Args:
        network: Network that returns logits (N, 1 or K, ...).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (N, C, S, S) to logits and, in the same shape, probabilities."""
        logits = self.network(image)
        return logits, logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


@dataclass(kw_only=True)
class Comparison:
    """Differences between two sets of outputs.

    Attributes:
        logits: Largest absolute difference of logits.
        largest_logit: Largest absolute logit of the reference, at least 1.
        probability: Largest absolute difference of probabilities.
        same: Number of pixels, or images, with the same class.
        total: Number of all pixels, or images.
    """

    logits: float = 0.0
    largest_logit: float = 1.0
    probability: float = 0.0
    same: int = 0
    total: int = 0

    @property
    def holds(self) -> bool:
        """True if both differences are within tolerance; False for NaN."""
        return (
            self.logits <= LOGIT_TOLERANCE * self.largest_logit
            and self.probability <= PROBABILITY_TOLERANCE
        )

    @property
    def same_percent(self) -> float:
        """Share of pixels, or images, with the same class, in per cent."""
        return 100 * self.same / self.total


def in_float32(network: nn.Module) -> Runner:
    """Run a network in float32 on the CPU as the reference: no autocast, default memory format."""
    model = WithProbability(network)

    def run(images: NDArray[np.uint8]) -> Outputs:
        batch = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        with torch.inference_mode():
            logits, probability = model(batch)
        return logits.numpy(), probability.numpy()

    return run


def batches(images: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Yield the first image alone, then all images in batches, with the first one repeated.

    This gives a batch of one and a larger one for any number of images.

    Args:
        images: At least one image; each (S, S, C).
    """
    stream = iter(images)
    first = next(stream)
    yield first[None]
    twice = chain([first, first], stream)
    while batch := list(islice(twice, BATCH_SIZE)):
        yield np.stack(batch)


def compare(
    reference: Runner,
    exported: Runner,
    images: Iterable[NDArray[np.uint8]],
    card: ModelCard,
    *,
    where: str,
) -> Comparison:
    """Run both networks on the same batches.

    Args:
        reference: Runner of the network in memory.
        exported: Runner of the exported file.
        images: Images as for ``batches``.
        card: Model card, which defines how classes are chosen.
        where: File to name in messages.

    Raises:
        MedvisionError: If the output shapes differ or the network's outputs are not finite.
    """
    found = Comparison()
    for batch in batches(images):
        wanted, given = reference(batch), exported(batch)
        if any(a.shape != b.shape for a, b in zip(wanted, given, strict=True)):
            raise MedvisionError(
                f"expected logits {wanted[0].shape} of the exported network, got {given[0].shape}"
                f" for a batch of {len(batch)}",
                where=where,
                hint="no file was written; export to safetensors",
                exit_code=3,
            )
        if not np.isfinite(wanted[0]).all():
            raise MedvisionError(
                "the logits of the network are not finite",
                where=where,
                hint="no file was written; use another checkpoint",
                exit_code=3,
            )
        found.logits = _larger(found.logits, wanted[0], given[0])
        found.probability = _larger(found.probability, wanted[1], given[1])
        found.largest_logit = max(found.largest_logit, float(np.abs(wanted[0]).max()))
        same = _classes(wanted[1], card) == _classes(given[1], card)
        found.same += int(np.count_nonzero(same))
        found.total += same.size
    return found


def check_difference(found: Comparison, *, exact: bool, where: str) -> None:
    """Raise an error if a file computes something else.

    Raises:
        MedvisionError: If the differences are above tolerance, or above 0 if ``exact``.
    """
    if found.logits == 0 or (found.holds and not exact):
        return
    allowed = (
        "no difference is allowed"
        if exact
        else f"{LOGIT_TOLERANCE * found.largest_logit:.1e} and {PROBABILITY_TOLERANCE} are allowed"
    )
    raise MedvisionError(
        f"the exported network differs from PyTorch, in logits by up to {found.logits:.1e}, in"
        f" probabilities by up to {found.probability:.1e}; {allowed}",
        where=where,
        hint="no file was written; try other versions of torch and onnxruntime",
        exit_code=3,
    )


def _larger(so_far: float, a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Update the maximum absolute difference; NaN is kept."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        return float(np.maximum(so_far, np.abs(a - b).max()))


def _classes(probability: NDArray[np.float32], card: ModelCard) -> NDArray[np.integer]:
    if probability.shape[1] == 1:
        return (probability >= card.threshold).astype(np.uint8)
    return probability.argmax(axis=1)
