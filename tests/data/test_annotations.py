"""Masks of COCO and LabelMe files, several masks of an image, fields of view and ignored values."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco
from pycocotools.coco import COCO

from layouts import LAYOUTS, SIZE
from medvision.data.discovery.index import index_segmentation
from medvision.data.discovery.keys import FolderKeys
from medvision.data.readers.annotations import (
    coco_file,
    decode_annotation,
    labelme_file,
    read_content,
    regions,
    shapes_of,
)
from medvision.data.readers.targets import combined, decode_target
from medvision.data.reading import Reading
from medvision.data.samples import files_in, masks_in
from medvision.data.sources import FolderSource
from medvision.errors import MedvisionError
from medvision.metrics import annotator_agreement

Mask = NDArray[np.uint8]
NAMES = ("background", "polyp", "tool")


def blobs(seed: int, *, num_classes: int = 2) -> Mask:
    """Draw regions with holes, single pixels and regions at the border."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(20, 90, 2))
    field = cv2.GaussianBlur(rng.random((height, width)), (0, 0), float(rng.uniform(0.6, 5)))
    levels = np.quantile(field, np.linspace(0.55, 0.95, num_classes - 1))
    return np.searchsorted(levels, field).astype(np.uint8)


def far_from(mask: Mask, other: Mask) -> int:
    """Count pixels that differ more than one pixel away from the contour."""
    near = np.ones((3, 3), np.uint8)
    outside = (other == 1) & (cv2.dilate(mask, near) == 0)
    inside = (other == 0) & (cv2.erode(mask, near, borderValue=1) == 1)
    return int(outside.sum() + inside.sum())


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools
@pytest.mark.parametrize("seed", range(12))
def test_polygons_are_read_back_within_a_pixel_by_us_and_by_the_reference(
    tmp_path: Path, seed: int
) -> None:
    mask = blobs(seed)
    size = (mask.shape[0], mask.shape[1])
    shapes = shapes_of(mask, NAMES[:2])
    path = tmp_path / "a.json"
    path.write_bytes(coco_file([("a.png", size, shapes)], NAMES[:2]))
    ours = decode_annotation(
        read_content(tmp_path, "a.json#1"), where="a", num_classes=2, class_names=None
    )
    reference = COCO(path)
    theirs = np.zeros(size, np.uint8)
    for one in reference.loadAnns(reference.getAnnIds(imgIds=[1])):
        theirs |= reference.annToMask(one)
    assert np.array_equal(ours, theirs)
    assert far_from(mask, ours) == 0
    drawn = labelme_file("a.png", size, shapes)
    again = decode_annotation(drawn, where="a", num_classes=2, class_names=None)
    assert far_from(mask, again) == 0
    assert (again != mask).mean() < 0.001


def test_a_region_with_a_hole_keeps_it_and_polygons_have_at_least_three_points() -> None:
    ring = np.zeros((20, 20), np.uint8)
    ring[4:15, 4:15] = 1
    ring[8:11, 8:11] = 0
    ring[18, 18] = 1
    found = list(regions(ring == 1))
    assert [len(polygons) > 1 for polygons in found] == [True, False]
    assert all(len(points) > 2 for polygons in found for points in polygons)


def test_classes_and_run_lengths_are_read() -> None:
    mask = blobs(3, num_classes=3)
    size = list(mask.shape)
    shapes = []
    for label, name in enumerate(NAMES[1:], 1):
        runs = coco.encode(np.asfortranarray((mask == label).astype(np.uint8)))
        shapes.append(
            {"label": name, "segmentation": {"size": size, "counts": runs["counts"].decode()}}
        )
    lengths = np.diff(np.flatnonzero(np.diff(np.r_[-1, (mask == 2).T.ravel(), -1]))).tolist()
    if mask[0, 0] == 2:
        lengths.insert(0, 0)
    plain = [shapes[0], {"label": "TOOL", "segmentation": {"size": size, "counts": lengths}}]
    for annotations in (shapes, plain):
        node = {"height": size[0], "width": size[1], "annotations": annotations}
        content = json.dumps(node).encode()
        read = decode_annotation(content, where="a", num_classes=3, class_names=NAMES)
        assert np.array_equal(read, mask)
    with pytest.raises(MedvisionError, match="the label polyp is no class"):
        decode_annotation(content, where="a", num_classes=3, class_names=("a", "b", "c"))


def test_labelme_masks_and_circles_are_drawn_and_boxes_are_not() -> None:
    part = np.zeros((6, 8), np.uint8)
    part[1:4, 2:7] = 255
    data = base64.b64encode(cv2.imencode(".png", part)[1].tobytes()).decode()
    shapes: list[dict[str, Any]] = [
        {"label": "a", "shape_type": "mask", "points": [[3, 5], [10, 10]], "mask": data},
        {"label": "a", "shape_type": "circle", "points": [[25, 25], [25, 28]]},
        {"label": "a", "shape_type": "rectangle", "points": [[0, 0], [39, 39]]},
    ]
    node = {"imageHeight": 40, "imageWidth": 40, "shapes": shapes}
    read = decode_annotation(json.dumps(node).encode(), where="a", num_classes=2, class_names=None)
    assert np.array_equal(read[5:11, 3:11], part // 255)
    assert read[25, 22:29].tolist() == [1] * 7
    assert read.sum() == (part > 0).sum() + read[22:29, 22:29].sum()


@pytest.mark.parametrize(
    "node",
    [
        {"height": 9, "width": 9},
        {"height": -1, "width": 9, "annotations": []},
        {"height": 10**6, "width": 10**6, "annotations": []},
        {
            "height": 9,
            "width": 9,
            "annotations": [{"label": "a", "segmentation": {"size": [9, 9]}}],
        },
        {
            "height": 9,
            "width": 9,
            "annotations": [{"label": "a", "segmentation": {"size": [9, 9], "counts": [5, 9999]}}],
        },
        {
            "height": 9,
            "width": 9,
            "annotations": [{"label": "a", "segmentation": {"size": [9, 9], "counts": "~~~~"}}],
        },
        {"height": 9, "width": 9, "annotations": [{"segmentation": [[1, 1, 5, 1, 5, 5]]}]},
        {"imageHeight": None, "imageWidth": 9, "shapes": []},
        {"imageHeight": 9, "imageWidth": 9, "shapes": [{"label": "a", "points": "x"}]},
        {
            "imageHeight": 9,
            "imageWidth": 9,
            "shapes": [{"label": "a", "shape_type": "mask", "points": [[0, 0]], "mask": "%"}],
        },
    ],
)
def test_a_damaged_annotation_is_an_error_with_its_file(node: dict[str, Any]) -> None:
    with pytest.raises(MedvisionError, match=r"cannot read the shapes: .*a\.json"):
        decode_annotation(
            json.dumps(node).encode(), where="a.json", num_classes=2, class_names=None
        )


def test_boxes_are_skipped_with_a_warning_and_several_labels_need_their_classes(
    tmp_path: Path,
) -> None:
    root = LAYOUTS["COCO"].draw(tmp_path)
    index = index_segmentation(root)
    assert index.notes == ["WARNING: shapes other than masks were skipped: 1 of kind box"]
    source = FolderSource(root, channels=3, reading=Reading(num_classes=2))
    _, mask = source.read(index.samples[1])
    assert mask is not None
    assert mask.shape == SIZE
    assert mask.sum() == 12 * 9
    path = root / "annotations/instances.json"
    node = json.loads(path.read_text())
    node["categories"].append({"id": 8, "name": "tool"})
    node["annotations"][0]["category_id"] = 8
    path.write_text(json.dumps(node))
    with pytest.raises(MedvisionError, match="the shapes have 2 labels: polyp, tool") as caught:
        index_segmentation(root)
    assert "data.class_names=[background,polyp,tool]" in str(caught.value.hint)
    assert len(index_segmentation(root, keys=FolderKeys(num_classes=3)).samples) == 12


def write(path: Path, mask: Mask) -> bytes:
    cv2.imwrite(str(path), mask)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("merge", "expected"),
    [(None, [0, 1, 1, 1, 1]), ("union", [0, 1, 1, 1, 1]), ("majority", [0, 0, 0, 1, 1])],
)
def test_masks_are_combined_by_union_or_majority(merge: str | None, expected: list[int]) -> None:
    masks = np.array([[0, 1, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]], np.uint8)[:, None]
    reading = Reading(num_classes=2, mask_merge=merge)
    assert combined(list(masks), reading)[0].tolist() == expected
    two = combined(list(masks[:2]), Reading(num_classes=2, mask_merge="majority"))
    assert two[0].tolist() == [0, 0, 0, 1, 1], "of two masks both must agree"


def test_pixels_outside_the_field_of_view_and_ignored_values_belong_to_no_class(
    tmp_path: Path,
) -> None:
    mask = np.array([[0, 255, 255, 0], [0, 0, 255, 128]], np.uint8)
    view = np.array([[255, 255, 0, 0], [255, 255, 255, 255]], np.uint8)
    contents = [write(tmp_path / "m.png", mask), write(tmp_path / "v.png", view)]
    target = "m.png|roi:v.png"
    assert masks_in(target) == (["m.png"], "v.png")
    assert files_in(target) == ["m.png", "v.png"]
    reading = Reading(num_classes=2, ignore_index=128)
    read, _ = decode_target(contents, target, reading, where=str)
    assert read.tolist() == [[0, 1, 255, 255], [0, 0, 1, 255]]
    indices = write(tmp_path / "i.png", np.array([[0, 1, 2, 255]], np.uint8))
    with pytest.raises(MedvisionError, match="contains the value"):
        decode_target([indices], "i.png", Reading(num_classes=3), where=str)
    read, _ = decode_target([indices], "i.png", Reading(num_classes=3, ignore_index=255), where=str)
    assert read.tolist() == [[0, 1, 2, 255]]
    read, _ = decode_target([indices], "i.png", Reading(num_classes=2, instances=True), where=str)
    assert read.tolist() == [[0, 1, 1, 1]]
    small = write(tmp_path / "s.png", view[:1])
    with pytest.raises(MedvisionError, match="the mask is 4 x 1 pixels"):
        decode_target([contents[1], small], "v.png|s.png", Reading(num_classes=2), where=str)


def test_agreement_is_the_mean_over_pairs_of_annotators() -> None:
    one = np.array([[1, 1, 0, 0, 255]], np.uint8)
    other = np.array([[1, 0, 0, 0, 1]], np.uint8)
    dice, iou = annotator_agreement([one, other])
    assert (dice, iou) == (pytest.approx(2 / 3), pytest.approx(1 / 2))
    dice, _ = annotator_agreement([one, other, one])
    assert dice == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert annotator_agreement([one * 0, one * 0]) == (1.0, 1.0)


def test_shards_hold_the_combined_mask(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from medvision.data.shards.create import make_shards
    from medvision.data.sources import open_source

    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    root = LAYOUTS["field of view beside"].draw(tmp_path / "set")
    keys = FolderKeys(
        images="*/images",
        masks="*/1st_manual",
        mask_pattern=r"(\d+)_training",
        mask_template=r"\1_manual1",
        roi="*/mask",
    )
    reading = Reading(num_classes=2)
    made = make_shards(root, tmp_path / "shards", keys=keys, reading=reading, shard_bytes=10**6)
    plain = FolderSource(root, channels=3, reading=reading)
    packed = open_source(
        made.out,
        task="segmentation",
        channels=3,
        reading=reading,
        listing=index_segmentation,
        cache_gb=1,
        window=None,
    )
    samples = index_segmentation(root, keys=keys).samples
    for sample in samples:
        ours, theirs = plain.read(sample)[1], packed.read(sample)[1]
        assert ours is not None
        assert theirs is not None
        assert np.array_equal(ours, theirs)
        assert {0, 255} <= set(np.unique(ours).tolist())


def test_images_of_an_array_file_are_read_and_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medvision.data.discovery.index import index_classification
    from medvision.data.shards.create import make_shards

    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    root = LAYOUTS["one array file"].draw(tmp_path / "set")
    with np.load(root / "breastmnist.npz") as stored:
        images = stored["val_images"]
    source = FolderSource(root, channels=3, reading=Reading())
    samples = index_classification(root).samples
    val = [sample for sample in samples if sample.split == "val"]
    assert all(np.array_equal(source.read(s)[0], images[k]) for k, s in enumerate(val))
    assert [sample.target for sample in val] == ["0", "1"] * 4
    made = make_shards(root, tmp_path / "shards", shard_bytes=10**6)
    assert (made.manifest.num_images, made.manifest.class_names) == (32, ("0", "1"))


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((6, 9, 9, 9), (6, 1), "volumes are not supported"),
        ((6, 9, 9), (6, 14), "each image has 14 labels"),
        ((5, 9, 9), (6, 1), "5 images and 6 labels in train"),
    ],
)
def test_arrays_of_another_kind_are_refused(
    tmp_path: Path, shape: tuple[int, ...], labels: tuple[int, int], message: str
) -> None:
    from medvision.data.readers.arrays import array_labels

    arrays = {"train_images": np.zeros(shape, np.uint8), "train_labels": np.zeros(labels, np.uint8)}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(MedvisionError, match=message):
        array_labels(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    with pytest.raises(MedvisionError, match="cannot read the arrays"):
        array_labels(tmp_path / "a.npz")
