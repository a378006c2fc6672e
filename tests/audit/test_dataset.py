from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvision.audit.check import NOT_JUDGED, audit
from medvision.audit.dataset import AuditedSet
from medvision.data.samples import StringColumn
from medvision.data.validation.properties import ImageProperties

MakeSet = Callable[..., AuditedSet]


def test_labels_are_indices_of_the_classes_in_their_order(make_set: MakeSet) -> None:
    data = make_set(3, targets=["b", "a", "b"], splits=["train", "", "test"])
    assert data.labels.tolist() == [1, 0, 1]
    assert data.splits.tolist() == ["train", "", "test"]
    assert len(data) == 3


def test_segmentation_has_no_labels(make_set: MakeSet) -> None:
    assert make_set(2).labels.tolist() == [-1, -1]


def test_files_are_below_the_root_of_their_row(make_set: MakeSet) -> None:
    data = replace(
        make_set(["x.png", "x.png"]),
        roots=(Path("one"), Path("data/two")),
        origin=np.array([0, 1], np.int8),
    )
    assert [data.file(row) for row in (0, 1)] == [Path("one/x.png"), Path("data/two/x.png")]
    assert [data.shown(row) for row in (0, 1)] == ["one/x.png", "two/x.png"]
    assert make_set(["x.png"]).shown(0) == "x.png"


def test_roots_of_one_name_are_distinguished_by_their_paths(make_set: MakeSet) -> None:
    data = replace(make_set(["x.png"]), roots=(Path("a/set"), Path("b/set")))
    assert data.shown(0) == "a/set/x.png"


def test_tables_of_different_lengths_are_refused(make_set: MakeSet) -> None:
    data = make_set(3)
    with pytest.raises(ValueError, match="'samples': 2, 'origin': 3"):
        replace(data, samples=data.samples[:2])
    with pytest.raises(ValueError, match="expected either masks or classes"):
        replace(data, class_names=("a", "b"))


def test_other_targets_are_only_compared_between_images_with_equal_pixels(
    make_set: MakeSet,
) -> None:
    numbers = StringColumn.of(["1.5", "2.5", "3.5"])
    data = make_set(3, pixel_hash=["same", "same", "other"], near_duplicates=[0, 0, 2])
    data = replace(
        data,
        samples=data.samples.with_column(targets=numbers),
        properties=replace(data.properties, mask=None),
    )
    found = audit(data, started=0.0)
    assert [pair.rows for pair in found.duplicates.conflicts] == [(0, 1)]
    assert found.memory is None
    assert found.shortcuts is None
    (finding,) = (finding for finding in found.findings if finding.kind == NOT_JUDGED)
    assert finding.severity == "note"


def test_joined_tables_keep_every_column_in_order(make_set: MakeSet) -> None:
    one, other = make_set(2, height=[10, 20]).properties, make_set(1, height=30).properties
    joined = ImageProperties.joined([one, other])
    assert len(joined) == 3
    assert joined.height.tolist() == [10, 20, 30]
    assert joined.mask is not None
    assert joined.mask.mask_hash.tolist() == ["mask 0", "mask 1", "mask 0"]
    assert joined.take([2]).thumbnail.shape == (1, 48, 48)


def test_tables_with_and_without_masks_do_not_join(make_set: MakeSet) -> None:
    with pytest.raises(ValueError, match="masks in all or none of 2 tables"):
        ImageProperties.joined([make_set(1).properties, make_set(1, targets=["a"]).properties])
