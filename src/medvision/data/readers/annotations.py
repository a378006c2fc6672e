"""Masks in annotation files: read COCO and LabelMe JSON, and draw masks as polygons.

pycocotools rasterises polygons and run lengths, because it is the reference of the COCO format, is
maintained and depends on NumPy alone. supervision and datumaro use it too, and bring frameworks.
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medvision.data.readers.arrays import array_image
from medvision.data.readers.decode import read_bytes
from medvision.data.readers.formats import MAX_PIXELS
from medvision.errors import MedvisionError

_POLYGON_EPSILON = 0.4
"""Largest distance of a polygon from the edge of its mask; pixels. Half a pixel would already move
the edge in a reader that draws polygons with integer vertices."""

_INSIDE = re.compile(r"(.*\.(?:json|npz))#(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """Images of a COCO file, or of several LabelMe files.

    Attributes:
        names: File name of each image, by the key of its record.
        labels: Number of shapes with each label.
        skipped: Number of shapes of each kind other than masks, such as boxes.
    """

    names: Mapping[str, str]
    labels: Counter[str]
    skipped: Counter[str]


def container(name: str) -> str:
    """Return the file of a name such as ``annotations.json#12``; other names are unchanged."""
    inside = _INSIDE.fullmatch(name)
    return inside.group(1) if inside else name


def read_content(root: Path, name: str) -> bytes:
    """Return the bytes of a file below a folder, or of an image in an annotation or array file.

    Raises:
        MedvisionError: If it is missing or cannot be read.
    """
    file = container(name)
    if file == name:
        return read_bytes(root / name, hint="check data.root")
    path, key = root / file, name.removeprefix(f"{file}#")
    if path.suffix == ".npz":
        return array_image(path, key)
    records = _coco(path)[1]
    if key not in records:
        raise MedvisionError(f"no image {key} in the file", where=str(path), hint="check its list")
    return records[key]


def is_coco(path: Path) -> bool:
    """Return True if a file has the keys of a COCO file; anything else is not one."""
    try:
        node = json.loads(read_bytes(path))
    except (MedvisionError, ValueError, RecursionError):  # not JSON: some other file
        return False
    return isinstance(node, dict) and {"images", "annotations"} <= node.keys()


def read_coco(path: Path) -> Annotations:
    """Read the list of images of a COCO file.

    Raises:
        MedvisionError: If it is not one.
    """
    return _coco(path)[0]


def _coco(path: Path) -> tuple[Annotations, Mapping[str, bytes]]:
    try:
        state = path.stat()
    except OSError as fault:
        raise MedvisionError(
            f"cannot read the file: {fault.strerror}", where=str(path), hint="check data.masks"
        ) from fault
    return _parsed(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, *_: int) -> tuple[Annotations, Mapping[str, bytes]]:
    """Return the list of images, and a record of each image as JSON by its id."""
    try:
        node = json.loads(read_bytes(path))
        labels = {item["id"]: str(item["name"]) for item in node.get("categories", [])}
        sizes = {
            str(item["id"]): (str(item["file_name"]), int(item["height"]), int(item["width"]))
            for item in node["images"]
        }
        shapes: dict[str, list[dict[str, Any]]] = {key: [] for key in sizes}
        used, skipped = Counter[str](), Counter[str]()
        for item in node["annotations"]:
            drawn = item.get("segmentation")
            if not drawn:
                skipped["box" if item.get("bbox") else "annotation without a mask"] += 1
                continue
            label = labels.get(item.get("category_id"), str(item.get("category_id", "object")))
            used[label] += 1
            shapes[str(item["image_id"])].append({"label": label, "segmentation": drawn})
        names = {key: name.replace("\\", "/") for key, (name, _, _) in sizes.items()}
        records = {
            key: json.dumps({"height": height, "width": width, "annotations": shapes[key]}).encode()
            for key, (_, height, width) in sizes.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise MedvisionError(
            f"not a COCO file: {type(fault).__name__}: {fault}",
            where=str(path),
            hint="expected images, annotations and categories",
        ) from fault
    return Annotations(names=names, labels=used, skipped=skipped), records


def read_labelme(paths: Sequence[Path]) -> tuple[list[bool], Counter[str], Counter[str]]:
    """Look at LabelMe files.

    Returns:
        If each file is one, the number of shapes with each label, and of shapes other than masks.
    """
    known, labels, skipped = [], Counter[str](), Counter[str]()
    for path in paths:
        try:
            node = json.loads(read_bytes(path))
            shapes = node["shapes"]
            for shape in shapes:
                kind = shape.get("shape_type") or "polygon"
                if kind in _DRAWN:
                    labels[str(shape["label"])] += 1
                else:
                    skipped["box" if kind == "rectangle" else kind] += 1
        except (MedvisionError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            known.append(False)  # its reader names the fault where it is read as a mask
        else:
            known.append(True)
    return known, labels, skipped


_DRAWN = ("polygon", "mask", "circle")


def is_annotation(content: bytes) -> bool:
    """Return True if the content of a mask file is JSON instead of a picture."""
    return content[:64].lstrip()[:1] == b"{"


def decode_annotation(
    content: bytes, *, where: str, num_classes: int, class_names: Sequence[str] | None
) -> NDArray[np.uint8]:
    """Draw the shapes of an image as class indices (H, W); later shapes lie on earlier ones.

    Args:
        content: A LabelMe file, or a record of a COCO file.
        where: Name of the file, for messages.
        num_classes: Number of classes K; of two, every shape is foreground.
        class_names: Names of the K classes, the background first.

    Raises:
        MedvisionError: If it cannot be read, or a label is no class.
    """
    try:
        node = json.loads(content)
        of_coco = "annotations" in node
        height, width = (
            int(node[key])
            for key in (("height", "width") if of_coco else ("imageHeight", "imageWidth"))
        )
        if not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels")
        indices = np.zeros((height, width), np.uint8)
        for shape in node["annotations" if of_coco else "shapes"]:
            inside = (_coco_shape if of_coco else _labelme_shape)(shape, height, width)
            if inside is not None:
                label = str(shape["label"])
                indices[inside] = _index(label, num_classes, class_names, where)
        return indices
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as fault:
        raise MedvisionError(
            f"cannot read the shapes: {type(fault).__name__}: {fault}",
            where=where,
            hint="save the file again with the annotation tool",
        ) from fault


def _index(label: str, num_classes: int, class_names: Sequence[str] | None, where: str) -> int:
    if num_classes == 2:
        return 1
    names = [name.casefold() for name in class_names or ()]
    if label.casefold() not in names:
        raise MedvisionError(
            f"the label {label} is no class; the classes are {', '.join(class_names or ())}",
            where=where,
            hint="name it in data.class_names, at the position of its index",
        )
    return names.index(label.casefold())


def _coco_shape(shape: Mapping[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    from pycocotools import mask as coco  # only where there are annotations

    drawn = shape["segmentation"]
    if isinstance(drawn, list):
        polygons = [np.asarray(points, np.float64).ravel() for points in drawn]
        usable = [points.tolist() for points in polygons if len(points) >= 6]
        if any(len(points) % 2 or not np.isfinite(points).all() for points in usable):
            raise ValueError("a polygon with an odd number of coordinates")
        if not usable:
            return np.zeros((height, width), bool)
        clipped = [
            np.clip(np.reshape(points, (-1, 2)), -1, (width + 1, height + 1)).ravel().tolist()
            for points in usable
        ]
        drawn = coco.merge(coco.frPyObjects(clipped, height, width))
    counts = drawn["counts"]
    if list(drawn["size"]) != [height, width]:
        raise ValueError(f"run lengths of {drawn['size']}, the image is {[height, width]}")
    counts = counts.decode() if isinstance(counts, bytes) else counts
    if isinstance(counts, list):
        lengths = np.asarray(counts, np.int64)
    else:
        lengths = np.asarray(_run_lengths(str(counts)), np.int64)
    if (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise ValueError(f"run lengths of {int(lengths.sum())} of {height * width} pixels")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape((width, height)).T


def _run_lengths(text: str) -> list[int]:
    """Decode the run lengths of a COCO string, whose length pycocotools does not check."""
    found: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("invalid run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value, shift = 0, 0
    return found


def _labelme_shape(shape: Mapping[str, Any], height: int, width: int) -> NDArray[np.bool_] | None:
    """Draw a shape as LabelMe does; None for shapes other than masks."""
    kind = shape.get("shape_type") or "polygon"
    if kind not in _DRAWN:
        return None
    points = np.asarray(shape["points"], np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("a point that is not finite")
    if kind == "mask":
        return _labelme_mask(shape, points, height, width)
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    if kind == "circle":
        (x, y), edge = points[0], points[1]
        radius = float(np.hypot(*(edge - points[0])))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    elif len(points) > 2:
        clipped = np.clip(points, -width - height, 2 * (width + height))
        draw.polygon([(float(x), float(y)) for x, y in clipped], outline=1, fill=1)
    return np.array(canvas, bool)


def _labelme_mask(
    shape: Mapping[str, Any], points: NDArray[np.float64], height: int, width: int
) -> NDArray[np.bool_]:
    try:
        data = base64.b64decode(shape["mask"], validate=True)
    except binascii.Error as fault:
        raise ValueError(f"a mask that is not base64: {fault}") from fault
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        if picture.width > width or picture.height > height:
            raise ValueError("a mask larger than its image")
        part = np.array(picture, bool)
    left, top = (round(float(value)) for value in points[0])
    inside = np.zeros((height, width), bool)
    place = inside[max(0, top) : top + part.shape[0], max(0, left) : left + part.shape[1]]
    place[:] = part[: place.shape[0], : place.shape[1]]
    return inside


def regions(mask: NDArray[np.bool_]) -> Iterator[list[NDArray[np.float64]]]:
    """Yield the polygons of each connected region of a mask, (N, 2) x and y of points.

    A pixel covers the square from its column and row to the next. A region with holes is cut into
    pieces without, as polygons have none.
    """
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        yield [_outline(piece) + offset for piece, offset in _solid(labels == label, (0, 0))]


Shapes = list[tuple[str, list[NDArray[np.float64]]]]
"""Label and polygons of each region of a mask."""


def shapes_of(indices: NDArray[np.uint8], class_names: Sequence[str]) -> Shapes:
    """Return label and polygons of each region of class indices (H, W), without the background."""
    return [
        (name, polygons)
        for label, name in enumerate(class_names[1:], 1)
        for polygons in regions(indices == label)
    ]


def coco_file(
    images: Sequence[tuple[str, tuple[int, int], Shapes]], class_names: Sequence[str]
) -> bytes:
    """Return a COCO file, one annotation for each region.

    Args:
        images: File name, height and width, and shapes of each image.
        class_names: Names of the classes, the background first.
    """
    from pycocotools import mask as coco  # slow to import

    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, (height, width), shapes) in enumerate(images, 1):
        listed.append({"id": number, "file_name": name, "height": height, "width": width})
        for label, polygons in shapes:
            points = [polygon.ravel().tolist() for polygon in polygons]
            runs = coco.merge(coco.frPyObjects(points, height, width))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": list(class_names).index(label),
                    "segmentation": points,
                    "area": int(coco.area(runs)),
                    "bbox": [float(value) for value in coco.toBbox(runs)],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(class_names) if k]
    node = {"images": listed, "annotations": annotations, "categories": categories}
    return json.dumps(node).encode()


def labelme_file(image: str, size: tuple[int, int], shapes: Shapes) -> bytes:
    """Return a LabelMe file; the pieces of a region share a group.

    Args:
        image: Path of the image from the folder of the file.
        size: Height and width of the image.
        shapes: Label and polygons of each region.
    """
    drawn = [
        {
            "label": label,
            "points": polygon.tolist(),
            "group_id": number if len(polygons) > 1 else None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for number, (label, polygons) in enumerate(shapes)
        for polygon in polygons
    ]
    node: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": drawn,
        "imagePath": image,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }
    return json.dumps(node, indent=1).encode()


def _solid(
    part: NDArray[np.bool_], offset: tuple[int, int]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float64]]]:
    """Yield pieces without holes, and the x and y of each."""
    count, labels = cv2.connectedComponents(part.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        rows, columns = np.nonzero(labels == label)
        top, left = int(rows.min()), int(columns.min())
        piece = (labels == label)[top : rows.max() + 1, left : columns.max() + 1]
        x, y = offset[0] + left, offset[1] + top
        around = np.pad(~piece, 1, constant_values=True).astype(np.uint8)
        number, background = cv2.connectedComponents(around, connectivity=4)
        holes = [k for k in range(1, number) if k != background[0, 0]]
        if not holes:
            yield piece.astype(np.uint8), np.array([x, y], np.float64)
            continue
        inside = np.flatnonzero((background == holes[0]).any(axis=1)) - 1
        cut = int(inside[len(inside) // 2])
        yield from _solid(piece[:cut], (x, y))
        yield from _solid(piece[cut:], (x, y + cut))


def _outline(piece: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the outline of a piece without holes, a quarter of a pixel inside of its edge.

    There every reader finds the centre of each pixel of the piece inside, and no other.
    """
    twice = np.repeat(np.repeat(piece, 2, axis=0), 2, axis=1)
    found, _ = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contour = max(found, key=len)
    plain = cv2.approxPolyDP(contour, 2 * _POLYGON_EPSILON, closed=True)
    points = plain if len(plain) > 2 else contour
    return np.asarray((points[:, 0, :] + 0.5) / 2, np.float64)
