"""How an exported network is used, in words and numbers that need no medvision to be read."""

from __future__ import annotations

import json

import medvision
from medvision.inference.model_card import ModelCard
from medvision.types import RESEARCH_ONLY


def describe(card: ModelCard) -> dict[str, str]:
    """Say what goes in, what comes out and what is done before and after.

    Returns:
        Text by key, lists as JSON; the metadata of an ONNX file holds nothing but text.
    """
    return {
        "task": card.task,
        "architecture": card.architecture,
        "class_names": json.dumps(card.class_names, ensure_ascii=False),
        "image_size": str(card.image_size),
        "in_channels": str(card.in_channels),
        "mean": json.dumps(card.mean),
        "std": json.dumps(card.std),
        "threshold": str(card.threshold),
        "input": _input(card),
        "preprocessing": _preprocessing(card),
        "normalisation": "inside the network: (image / 255 - mean) / std",
        "output": _output(card),
        "postprocessing": _postprocessing(card),
        "medvision_version": medvision.__version__,
        "notice": RESEARCH_ONLY,
    }


def _input(card: ModelCard) -> str:
    size = card.image_size
    colour = "RGB" if card.in_channels == 3 else "grey"
    return (
        f"image: uint8 (N, {card.in_channels}, {size}, {size}), {colour}, 0-255; resize to"
        f" {size} x {size}: area when shrinking, bilinear when growing"
    )


def _preprocessing(card: ModelCard) -> str:
    size = card.image_size
    steps = ["turn as the EXIF orientation says", "lay transparent pixels over black"]
    if card.in_channels == 1:
        steps.append("colours become grey by 0.299 R + 0.587 G + 0.114 B")
    else:
        steps.append("grey becomes three equal channels")
    if card.value_range is None:
        steps.append("of more than 8 bits: the smallest value of the image is 0, the largest 255")
    else:
        low, high = card.value_range
        steps.append(f"of more than 8 bits: {low:g} is 0 and {high:g} is 255, others are clipped")
    steps.append(
        f"resize to {size} x {size} without keeping the aspect: OpenCV INTER_AREA where height"
        f" and width are both above {size}, else INTER_LINEAR"
    )
    if card.eval_transforms:
        steps.append(f"then albumentations {json.dumps(card.eval_transforms, ensure_ascii=False)}")
    return "; ".join(steps)


def _output(card: ModelCard) -> str:
    two = card.num_classes == 2
    channels = 1 if two else card.num_classes
    pixels = f", {card.image_size}, {card.image_size}" if card.task == "segmentation" else ""
    whose = f"of {card.class_names[1]}" if two else "of each class in order"
    formula = "sigmoid" if two else "softmax over the classes"
    return (
        f"logits: float32 (N, {channels}{pixels}) {whose}; probability: the same shape,"
        f" {formula} of the logits"
    )


def _postprocessing(card: ModelCard) -> str:
    other, chosen = card.class_names[0], card.class_names[1]
    two = f"{chosen} where sigmoid(logit) >= {card.threshold:g}, else {other}"
    if card.task == "segmentation":
        enlarged = (
            "enlarge the logits bilinearly (between pixel centres, OpenCV INTER_LINEAR) to the"
            " height and width of the image; every pixel is then "
        )
        if card.num_classes == 2:
            return enlarged + two
        return enlarged + "of the class with the largest logit"
    return two if card.num_classes == 2 else "the class with the largest logit"
