"""Decide which image of a planted data set gets which name, class, copy and fault."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from synthetic_faults.damage import CORRUPTIONS
from synthetic_faults.draws import CANDIDATES, Scenes, class_counts
from synthetic_faults.plan import Copies, Plan

PLANTED_VERSION = 1
"""Part of every seed; bumped when a file changes."""


@dataclass(kw_only=True, slots=True)
class Copy:
    """A copy to be made of a row.

    Attributes:
        plan: Kind, strength and whether it conflicts.
        split: Where it goes.
        label: The class it is stored under.
        stem: Its name without the suffix.
    """

    plan: Copies
    split: str
    label: int
    stem: str


@dataclass(kw_only=True, slots=True)
class Row:
    """One image to draw, and its use.

    Attributes:
        index: Number of the draw.
        label: What is drawn.
        split: Where it goes.
        stored: The class it is stored under.
        patient: Number in its name.
        number: Of the image among those of its patient.
        copy: Its copy, where it has one.
        wrong: True if its class or mask is that of another image.
        shortcut: One of `SHORTCUTS`, or empty.
        fault: One of `MASK_FAULTS`, of `CORRUPTIONS`, ``constant``, or empty.
        like: Number of the row it was chosen to resemble, and their correlation.
    """

    index: int = -1
    label: int
    split: str
    stored: int
    patient: int = 0
    number: int = 1
    copy: Copy | None = None
    wrong: bool = False
    shortcut: str = ""
    fault: str = ""
    like: tuple[int, float] | None = None


@dataclass(kw_only=True, slots=True)
class Layout:
    """Rows and how their names are spelt.

    Attributes:
        rows: All images to be drawn, without their copies.
        shared: Numbers of the patients in train and in test.
        digits: Of a patient's number.
        spare: Number of the first draw that no row uses.
    """

    rows: list[Row]
    shared: list[int] = field(default_factory=list)
    digits: int = 4
    spare: int = 0

    def stem(self, row: Row) -> str:
        """Name of a row without the suffix."""
        return self.spell(row.patient, row.number)

    def spell(self, patient: int, number: int) -> str:
        """Name of one image of a patient without the suffix."""
        return f"p{patient:0{self.digits}d}_{number}"


def lay_out(plan: Plan) -> Layout:
    """Return the rows of a plan; the same plan gives the same rows.

    Raises:
        ValueError: If the plan wants more of something than it has images.
    """
    rng = np.random.default_rng([PLANTED_VERSION, plan.seed])
    rows = _labelled(plan, rng)
    spare = _number_draws(plan, rows, rng)
    extra = _damaged(plan, spare, rng)
    total = len(rows) + len(extra) + sum(c.across + c.in_train + c.in_test for c in plan.copies)
    numbers = iter((rng.permutation(total) + 1).tolist())
    layout = Layout(rows=rows + extra, digits=max(4, len(str(total))), spare=spare + len(extra))
    layout.shared = _name_patients(plan, rows, numbers, rng)
    for row in extra:
        row.patient = next(numbers)
    _bear_shortcuts(plan, rows, rng)
    free = {
        split: [rows[k] for k in rng.permutation(len(rows)).tolist() if rows[k].split == split]
        for split in ("train", "test")
    }
    _copy(plan, layout, free, numbers, rng)
    for row in _take(free["train"], plan.wrong_labels, "wrong labels"):
        row.wrong, row.stored = True, _other_label(plan, row.label, rng)
    both = [*free["train"], *free["test"]]
    both = [both[k] for k in rng.permutation(len(both)).tolist()]
    for kind, count in plan.mask_faults.items():
        for row in _take(both, count, "mask faults"):
            row.fault = kind
    return layout


def _labelled(plan: Plan, rng: np.random.Generator) -> list[Row]:
    rows = []
    classes = max(1, len(plan.class_names))
    train_shares = plan.train_shares or (1.0,) * classes
    for split, count, shares in (
        ("train", plan.train, train_shares),
        ("test", plan.test, plan.test_shares or train_shares),
    ):
        labels = np.repeat(np.arange(classes), class_counts(count, shares))
        rows += [Row(label=k, split=split, stored=k) for k in rng.permutation(labels).tolist()]
    return rows


def _number_draws(plan: Plan, rows: list[Row], rng: np.random.Generator) -> int:
    """Give each row its draw, look-alikes last, and return the first number that is not used."""
    order = rng.permutation(len(rows)).tolist()
    chosen = sorted(order[: plan.look_alikes])
    plain = sorted(order[plan.look_alikes :])
    for index, row in enumerate(plain):
        rows[row].index = index
    scenes = Scenes(drawn=plan.drawn, size_px=plan.size_px, seed=plan.seed)
    found = scenes.most_alike([rows[k].label for k in plain], [rows[k].label for k in chosen])
    for row, (index, model, correlation) in zip(chosen, found, strict=True):
        rows[row].index, rows[row].like = index, (plain[model], correlation)
    return len(plain) + CANDIDATES * len(chosen)


def _damaged(plan: Plan, first: int, rng: np.random.Generator) -> list[Row]:
    faults = ["constant"] * plan.constant
    faults += [CORRUPTIONS[k % len(CORRUPTIONS)] for k in range(plan.corrupt)]
    labels = rng.integers(max(1, len(plan.class_names)), size=len(faults)).tolist()
    return [
        Row(index=first + k, label=label, split=("train", "test")[k % 2], stored=label, fault=fault)
        for k, (fault, label) in enumerate(zip(faults, labels, strict=True))
    ]


def _name_patients(
    plan: Plan, rows: list[Row], numbers: Iterator[int], rng: np.random.Generator
) -> list[int]:
    """Give each row a patient, and return the patients in train and in test."""
    patients: dict[str, list[list[Row]]] = {"train": [], "test": []}
    alike: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        alike[row.split, row.label].append(row)
    for (split, _), members in alike.items():
        for start in range(0, len(members), plan.images_per_patient):
            patients[split].append(members[start : start + plan.images_per_patient])
    for images in (*patients["train"], *patients["test"]):
        patient = next(numbers)
        for number, row in enumerate(images, start=1):
            row.patient, row.number = patient, number
    shared: list[int] = []
    waiting = [patients["train"][k] for k in rng.permutation(len(patients["train"])).tolist()]
    for k in rng.permutation(len(patients["test"])).tolist():
        images = patients["test"][k]
        match = next((each for each in waiting if each[0].label == images[0].label), None)
        if len(shared) == plan.shared_patients or match is None:
            continue
        waiting.remove(match)
        shared.append(match[0].patient)
        for row in images:
            row.patient, row.number = match[0].patient, row.number + len(match)
    if len(shared) < plan.shared_patients:
        raise ValueError(
            f"expected at most {len(shared)} shared patients with these numbers of patients,"
            f" got {plan.shared_patients}"
        )
    return shared


def _bear_shortcuts(plan: Plan, rows: list[Row], rng: np.random.Generator) -> None:
    for each in plan.shortcuts:
        for split, count in (("train", each.train), ("test", each.test)):
            fit = [r for r in rows if (r.split, r.label, r.shortcut) == (split, each.label, "")]
            fit = [fit[k] for k in rng.permutation(len(fit)).tolist()]
            for row in _take(fit, count, f"{split} images with the shortcut {each.kind}"):
                row.shortcut = each.kind


def _copy(
    plan: Plan,
    layout: Layout,
    free: dict[str, list[Row]],
    numbers: Iterator[int],
    rng: np.random.Generator,
) -> None:
    for copies in plan.copies:
        for source, target, count in (
            ("train", "test", copies.across),
            ("train", "train", copies.in_train),
            ("test", "test", copies.in_test),
        ):
            for row in _take(free[source], count, f"copies of {source} images"):
                label = _other_label(plan, row.label, rng) if copies.conflict else row.label
                stem = layout.spell(next(numbers), 1)
                row.copy = Copy(plan=copies, split=target, label=label, stem=stem)


def _other_label(plan: Plan, label: int, rng: np.random.Generator) -> int:
    classes = len(plan.class_names)
    return (label + int(rng.integers(1, classes))) % classes if classes else label


def _take(rows: list[Row], count: int, what: str) -> list[Row]:
    """Remove and return the last rows of a list."""
    if count > len(rows):
        raise ValueError(f"expected at most {len(rows)} more {what}, got {count}: plan more images")
    return [rows.pop() for _ in range(count)]
