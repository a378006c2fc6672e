"""Data sets with synthetic faults in stated numbers, and the truth about each of them.

Phantoms are drawn, copied, mislabelled, damaged and written as the files of a given split. What
was planted where is known, so a check of data sets can be measured by what it misses and by what
it reports without cause.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvision.files import write_json
from synthetic_faults.changes import Change, changed_file, changed_shape, encode
from synthetic_faults.damage import (
    CORRUPTIONS,
    MASK_FAULTS,
    SHORTCUT_QUALITY,
    corrupted,
    faulty_mask,
    framed,
    shortcut_size_px,
)
from synthetic_faults.draws import Scenes
from synthetic_faults.layout import PLANTED_VERSION, Layout, Row, lay_out
from synthetic_faults.plan import Plan

TRUTH_FILE = "truth.json"
"""Written beside the data folder."""

GROUP_PATTERN = r"(p\d+)_"
"""Finds the patient in the name of a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A copy and its source.

    Attributes:
        source: The image that was copied, below the root.
        copy: The copy, below the root.
        kind: A key of `STRENGTHS`.
        strength: In the unit of the kind.
        crosses: True if the source is in train and the copy in test.
        conflict: True if the copy has another class or another mask.
    """

    source: str
    copy: str
    kind: str
    strength: float
    crosses: bool
    conflict: bool


@dataclass(kw_only=True, slots=True)
class Truth:
    """Synthetic faults of a data set; every path is that of an image, below the root.

    Attributes:
        drawn: Content of the images.
        class_names: Classes by index; none for polyps.
        num_images: Files in train and in test, the damaged ones included.
        num_of_class: The same by name of the class, for each split; a wrong label counts where
            it stands. None for polyps.
        pairs: Copies.
        look_alikes: Two different draws that look alike, no copies of each other, and their
            correlation as thumbnails of 48 px.
        wrong_labels: Images with the class or the mask of another image, and their true class,
            for polyps an empty name.
        shared_patients: Patients with images in train and in test, and all their images.
        shortcuts: Images with a sign of their class that is not in the tissue, and its kind.
        mask_faults: Images with a faulty mask, and the kind of its fault.
        constant: Images of one grey level, each of another.
        corrupt: Files that cannot be read, and their damage.
    """

    drawn: str
    class_names: tuple[str, ...]
    num_images: dict[str, int] = field(default_factory=dict)
    num_of_class: dict[str, dict[str, int]] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    look_alikes: list[tuple[str, str, float]] = field(default_factory=list)
    wrong_labels: dict[str, str] = field(default_factory=dict)
    shared_patients: dict[str, list[str]] = field(default_factory=dict)
    shortcuts: dict[str, str] = field(default_factory=dict)
    mask_faults: dict[str, str] = field(default_factory=dict)
    constant: list[str] = field(default_factory=list)
    corrupt: dict[str, str] = field(default_factory=dict)


def plant(root: Path, plan: Plan) -> Truth:
    """Draw and write a data set with faults, and ``truth.json`` beside it.

    The folder holds ``{train,test}/<class>/*``, or ``{train,test}/{images,masks}/*`` for polyps.
    Names start with a patient (``p0123_2.png``), and those of copies are neutral. The same plan
    gives the same bytes.

    Args:
        root: Made for the data set; appears once it is whole.
        plan: What to draw and to plant.

    Raises:
        FileExistsError: If ``root`` or the truth beside it exists.
        ValueError: If the plan wants more of something than it has images.
    """
    for path in (root, root.parent / TRUTH_FILE):
        if path.exists():
            raise FileExistsError(f"{path} exists")
    layout = lay_out(plan)
    unfinished = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    try:
        truth = _Writer(unfinished, plan, layout).write()
        write_json(root.parent / TRUTH_FILE, asdict(truth))
        unfinished.rename(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return truth


class _Writer:
    """Writes the files of a layout and keeps the truth about them."""

    def __init__(self, root: Path, plan: Plan, layout: Layout) -> None:
        self.root, self.plan, self.layout = root, plan, layout
        self.scenes = Scenes(drawn=plan.drawn, size_px=plan.size_px, seed=plan.seed)
        self.truth = Truth(drawn=plan.drawn, class_names=plan.class_names)
        self.spare = layout.spare  # number of the next draw whose mask is lent to another image
        self.greys = np.random.default_rng([PLANTED_VERSION, plan.seed, 1]).permutation(256)

    def write(self) -> Truth:
        truth = self.truth
        paths = [self._write_row(row) for row in self.layout.rows]
        for row, path in zip(self.layout.rows, paths, strict=True):
            if row.like is not None:
                truth.look_alikes.append((paths[row.like[0]], path, row.like[1]))
            if row.patient in self.layout.shared:
                patient = self.layout.stem(row).split("_")[0]
                truth.shared_patients.setdefault(patient, []).append(path)
        return truth

    def _write_row(self, row: Row) -> str:
        image, mask = self._drawn(row)
        suffix = self.plan.suffix
        if row.shortcut == "format":
            suffix = ".jpg" if suffix == ".png" else ".png"
        quality = SHORTCUT_QUALITY if row.shortcut == "quality" else self.plan.quality
        data = encode(image, suffix, quality=quality)
        if row.fault in CORRUPTIONS:
            data = corrupted(data, row.fault)
        white = None
        if mask is not None:
            mask = self._lent_mask(mask) if row.wrong else mask
            faulty = row.fault in MASK_FAULTS
            white = faulty_mask(mask, row.fault) if faulty else mask * np.uint8(255)
        path = self._store(row.split, row.stored, self.layout.stem(row) + suffix, data, white)
        self._tell(row, path)
        if row.copy is not None:
            self._write_copy(row, path, data, mask)
        return path

    def _drawn(self, row: Row) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        larger = shortcut_size_px(self.plan.size_px) if row.shortcut == "size" else None
        image, mask = self.scenes.draw(row.index, row.label, size_px=larger)
        if row.shortcut == "border":
            image = framed(image)
        if row.fault == "constant":
            image = np.full_like(image, self.greys[len(self.truth.constant)])
        return image, mask

    def _write_copy(
        self, row: Row, source: str, data: bytes, mask: NDArray[np.uint8] | None
    ) -> None:
        assert row.copy is not None
        planned = row.copy.plan
        rng = np.random.default_rng([PLANTED_VERSION, self.plan.seed, 2, row.index])
        change = Change.draw(planned.kind, planned.strength, rng)
        copied, suffix = changed_file(data, change)
        if mask is not None:
            mask = self._lent_mask(mask) if planned.conflict else mask
            mask = changed_shape(mask, change, is_mask=True) * np.uint8(255)
        path = self._store(row.copy.split, row.copy.label, row.copy.stem + suffix, copied, mask)
        self.truth.pairs.append(
            Pair(
                source=source,
                copy=path,
                kind=planned.kind,
                strength=planned.strength,
                crosses=row.split != row.copy.split,
                conflict=planned.conflict,
            )
        )

    def _lent_mask(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mask of a draw that is no image of the set."""
        _, other = self.scenes.draw(self.spare, 0, size_px=len(mask))
        self.spare += 1
        assert other is not None
        return other

    def _store(
        self, split: str, label: int, name: str, data: bytes, mask: NDArray[np.uint8] | None
    ) -> str:
        folder = self.plan.class_names[label] if mask is None else "images"
        path = self.root / split / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if mask is not None:
            beside = self.root / split / "masks" / f"{path.stem}.png"
            beside.parent.mkdir(exist_ok=True)
            beside.write_bytes(encode(mask, ".png"))
        counts = self.truth.num_images
        counts[split] = counts.get(split, 0) + 1
        if mask is None:
            of_class = self.truth.num_of_class.setdefault(split, {})
            of_class[folder] = of_class.get(folder, 0) + 1
        return f"{split}/{folder}/{name}"

    def _tell(self, row: Row, path: str) -> None:
        truth, names = self.truth, self.plan.class_names
        if row.wrong:
            truth.wrong_labels[path] = names[row.label] if names else ""
        if row.shortcut:
            truth.shortcuts[path] = row.shortcut
        if row.fault == "constant":
            truth.constant.append(path)
        elif row.fault in CORRUPTIONS:
            truth.corrupt[path] = row.fault
        elif row.fault:
            truth.mask_faults[path] = row.fault
