"""Images that a check runs on: given ones, those a run was tested on, or drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvision.data.phantom import draw_polyp_scene
from medvision.data.phantom_brain import BRAIN_CLASSES, draw_brain
from medvision.data.phantom_chest import CHEST_CLASSES, draw_chest
from medvision.data.sample import Sample
from medvision.data.splits_csv import read_splits
from medvision.files import read_plain
from medvision.inference.card import ModelCard
from medvision.inference.inputs import find_inputs
from medvision.inference.results import Image

NUM_IMAGES = 8
"""Of a run, or drawn."""


@dataclass(frozen=True, kw_only=True)
class CheckInputs:
    """Images at the size of their files.

    Attributes:
        images: Files, or uint8 (H, W, C).
        words: What they are, and where they are not of the run, why.
        notes: Sentences on what was left out.
    """

    images: Sequence[Path | Image]
    words: str
    notes: Sequence[str] = ()


def choose_inputs(source: Path, card: ModelCard, *, given: Sequence[Path]) -> CheckInputs:
    """Take the images given, else test images of the run, else phantoms.

    Args:
        source: The run folder or model file.
        card: Its card.
        given: Files and folders; may be empty.

    Raises:
        MedvisionError: If a given path holds no image, or the run's table of splits is damaged.
    """
    if given:
        found, notes = find_inputs(given)
        words = _count(len(found), "image", "given")
        return CheckInputs(images=[one.path for one in found], words=words, notes=notes)
    tested, why_none = _test_images(source.expanduser())
    if tested:
        return CheckInputs(images=tested, words=_count(len(tested), "test image", "of the run"))
    drawn = [_draw(card, index) for index in range(NUM_IMAGES)]
    return CheckInputs(images=drawn, words=f"{NUM_IMAGES} drawn phantoms, because {why_none}")


def _count(count: int, noun: str, rest: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'} {rest}"


def _test_images(source: Path) -> tuple[list[Path], str]:
    """Files spread evenly over the test split, or none and the reason."""
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
        return [], f"{run / 'config.yaml'} does not say where the data is"
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
    return [], f"the test images of the run are not below {root}"


def _places(root: str, run: Path, run_dir: Any) -> list[Path]:
    """Where a root may lie: as it reads from here, or from where the run was started."""
    path = Path(root).expanduser()
    places = [path]
    told, here = Path(str(run_dir or "")).parts, run.resolve().parts
    if not path.is_absolute() and told and here[-len(told) :] == told:
        places.append(Path(*here[: -len(told)]) / path)
    return places


def _existing(root: Path, samples: Sequence[Sample]) -> list[Path]:
    rows = np.linspace(0, len(samples) - 1, min(NUM_IMAGES, len(samples))).round().astype(int)
    files = [root / samples[row].path for row in rows]
    return [file for file in files if file.is_file()]


def _draw(card: ModelCard, index: int) -> Image:
    """A picture of the kind the network is for, as far as one can be drawn."""
    if card.task == "segmentation":
        return draw_polyp_scene(index, size_px=card.image_size)[0]
    chest = set(card.class_names) <= set(CHEST_CLASSES)
    draw, classes = (draw_chest, CHEST_CLASSES) if chest else (draw_brain, BRAIN_CLASSES)
    return draw(index, index % len(classes), size_px=card.image_size, seed=0)
