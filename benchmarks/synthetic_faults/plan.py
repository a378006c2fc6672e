"""Plan of the synthetic faults in a data set of phantoms, in stated numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from synthetic_faults.changes import STRENGTHS
from synthetic_faults.damage import MASK_FAULTS, SHORTCUTS
from synthetic_faults.draws import CLASSES


@dataclass(frozen=True, kw_only=True, slots=True)
class Copies:
    """Copies of one kind, each of another source.

    Attributes:
        kind: A key of `STRENGTHS`.
        strength: In the unit of the kind.
        across: Copies in test whose source is in train.
        in_train: Copies in train whose source is in train.
        in_test: Copies in test whose source is in test.
        conflict: Give each copy another class than its source, or for polyps another mask.
    """

    kind: str
    strength: float = 0
    across: int = 0
    in_train: int = 0
    in_test: int = 0
    conflict: bool = False

    def __post_init__(self) -> None:
        _check_one_of("kind", self.kind, STRENGTHS)
        _check_counts(across=self.across, in_train=self.in_train, in_test=self.in_test)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortcut:
    """Property of one class that is not in the tissue.

    Attributes:
        kind: One of `SHORTCUTS`.
        label: Index of the class whose images bear it.
        train: How many of them in train.
        test: How many of them in test.
    """

    kind: str
    label: int
    train: int
    test: int = 0

    def __post_init__(self) -> None:
        _check_one_of("kind", self.kind, SHORTCUTS)
        _check_counts(label=self.label, train=self.train, test=self.test)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A data set of phantoms and its faults.

    No image serves two purposes: a source has one copy, and its label and mask are right. Only
    shortcuts may lie on sources, and a copy shows what its source shows.

    Attributes:
        drawn: ``brain``, ``chest`` or ``polyps``; polyps have masks, the others classes.
        train: Images drawn for train; copies and damaged files come on top.
        test: The same for test.
        size_px: Height and width.
        seed: Decides everything.
        suffix: ``.png`` or ``.jpg``.
        quality: Of JPEG files.
        train_shares: Weight of each class in train; None for all alike. Where those of test
            differ, the prior shifts.
        test_shares: Weight of each class in test; None for those of train.
        images_per_patient: Images of one split and class that share a patient, as their names
            tell; each shows a draw of its own.
        shared_patients: Patients of train who also have images in test.
        look_alikes: How many of the drawn images are chosen for their likeness to another.
        copies: Duplicates and near-duplicates.
        wrong_labels: Images of train with the class or the mask of another image.
        shortcuts: Signs of a class that are not in the tissue.
        mask_faults: How many images get each of `MASK_FAULTS`; polyps only.
        constant: Images of one grey level, in train and test in turn, from 0 to 256 of them.
        corrupt: Files that cannot be read, of all `CORRUPTIONS` and in train and test in turn.
    """

    drawn: str = "brain"
    train: int = 200
    test: int = 100
    size_px: int = 128
    seed: int = 0
    suffix: str = ".png"
    quality: int = 90
    train_shares: tuple[float, ...] | None = None
    test_shares: tuple[float, ...] | None = None
    images_per_patient: int = 1
    shared_patients: int = 0
    look_alikes: int = 0
    copies: tuple[Copies, ...] = ()
    wrong_labels: int = 0
    shortcuts: tuple[Shortcut, ...] = ()
    mask_faults: Mapping[str, int] = field(default_factory=dict)
    constant: int = 0
    corrupt: int = 0

    def __post_init__(self) -> None:
        _check_one_of("drawn", self.drawn, CLASSES)
        _check_one_of("suffix", self.suffix, (".png", ".jpg"))
        _check_counts(
            shared_patients=self.shared_patients,
            look_alikes=self.look_alikes,
            wrong_labels=self.wrong_labels,
            corrupt=self.corrupt,
            **self.mask_faults,
        )
        for kind in self.mask_faults:
            _check_one_of("mask_faults", kind, MASK_FAULTS)
        if min(self.train, self.test, self.images_per_patient) < 1:
            raise ValueError(
                "expected train, test and images_per_patient of 1 or greater, got"
                f" {self.train}, {self.test} and {self.images_per_patient}"
            )
        if not 0 <= self.constant <= 256:
            raise ValueError(f"expected constant in [0, 256], got {self.constant}")
        if self.look_alikes >= self.train + self.test:
            raise ValueError(
                f"expected fewer look-alikes than images, got {self.look_alikes}"
                f" of {self.train + self.test}"
            )
        self._check_classes()

    def _check_classes(self) -> None:
        number = len(CLASSES[self.drawn])
        for shares in (self.train_shares, self.test_shares):
            if shares is not None and (len(shares) != number or min(shares) < 0 or not sum(shares)):
                raise ValueError(f"expected {number} shares, not all of them 0, got {shares}")
        if self.shortcuts and any(each.label >= number for each in self.shortcuts):
            raise ValueError(f"expected shortcuts of classes below {number}, got {self.shortcuts}")
        if number and self.mask_faults:
            raise ValueError(f"expected no mask_faults for {self.drawn}, got {self.mask_faults}")
        if self.suffix == ".png" and any(each.kind == "quality" for each in self.shortcuts):
            raise ValueError("expected suffix .jpg for the shortcut quality, got .png")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes by index; none for polyps."""
        return CLASSES[self.drawn]


def copies_of_each(
    kinds: Sequence[str] = tuple(STRENGTHS),
    *,
    across: int = 0,
    in_train: int = 0,
    in_test: int = 0,
) -> tuple[Copies, ...]:
    """Plan the same numbers of copies for every strength of some kinds, or of all."""
    return tuple(
        Copies(kind=kind, strength=strength, across=across, in_train=in_train, in_test=in_test)
        for kind in kinds
        for strength in STRENGTHS[kind]
    )


def _check_one_of(name: str, value: str, choices: Mapping[str, object] | Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {', '.join(choices)}, got {value}")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"expected {name} of 0 or greater, got {count}")
