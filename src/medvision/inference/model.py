"""Trained models for use on single images, in notebooks and commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvision.data.loading.transforms import Transform
from medvision.data.readers.decode import read_bytes
from medvision.data.readers.images import decode_image
from medvision.errors import MedvisionError
from medvision.inference.engine import Engine, OnnxEngine
from medvision.inference.load import find_model, load_network
from medvision.inference.model_card import ModelCard
from medvision.inference.results import Image, Result, sigmoid, softmax
from medvision.task_definition import task_of

if TYPE_CHECKING:  # ONNX files run without torch
    from torch import nn


def load_model(path: Path | str, *, model: nn.Module | None = None) -> Model:
    """Load a trained model; nothing in the file is executed.

    Args:
        path: A run folder (its best checkpoint), a ``.ckpt``, ``.safetensors`` or ``.onnx`` file.
        model: Network that the weights belong to; None builds the one that the file names.

    Raises:
        MedvisionError: If the file cannot be read, or is not a model of this package.

    Example:
        >>> model = load_model("runs/polyp_unet/2026-11-21_21-47-17")
        >>> result = model.predict("images/a.jpg")
        >>> result.mask.shape, result.foreground_percent
    """
    file = find_model(Path(path))
    if file.suffix == ".onnx" and model is not None:
        raise MedvisionError(
            "an ONNX file holds its own network", where=str(file), hint="leave out model"
        )
    if file.suffix == ".onnx":
        runtime = OnnxEngine(file)
        return Model(card=runtime.card, engine=runtime, source=file)
    network, card = load_network(file, model=model)
    from medvision.inference.torch_engine import TorchEngine

    return Model(card=card, engine=TorchEngine(network, card), source=file)


class Model:
    """A network with the metadata for its use: size, channels, classes, threshold.

    Args:
        card: Model card.
        engine: Engine that runs the network.
        source: Model file.

    Raises:
        MedvisionError: If the task of the model has no result for single images.
    """

    def __init__(self, *, card: ModelCard, engine: Engine, source: Path) -> None:
        self.card, self.engine, self.source = card, engine, source
        self.result: type[Result] = task_of(card.task).load("result")

    def __repr__(self) -> str:
        card = self.card
        return (
            f"{card.architecture} for {card.task} of {', '.join(card.class_names)}, "
            f"{card.image_size} px ({self.source})"
        )

    def predict(self, image: Any, *, tta: bool = False) -> Result:
        """Predict one image of any size.

        Args:
            image: A file; uint8 (H, W), (H, W, 1) grey or (H, W, 3) RGB in [0, 255]; or a Pillow
                image.
            tta: If True, average over mirrored images (test-time augmentation).

        Raises:
            MedvisionError: If the file cannot be read, or the array has another type or shape.
        """
        return self.predict_batch([self.read(image)], tta=tta)[0]

    def predict_batch(self, images: Sequence[Image], *, tta: bool = False) -> list[Result]:
        """Predict images returned by ``read`` in one forward pass.

        Raises:
            MedvisionError: If the output of the network is not finite for an image.
        """
        batch = np.stack([self.prepare(image) for image in images])
        logits = self._logits(batch, tta=tta)
        if not np.isfinite(logits).all():
            raise MedvisionError(
                "the output of the network is not finite",
                where=str(self.source),
                hint="use another checkpoint: this one predicts nothing for the image",
                exit_code=3,
            )
        make = self.result.from_logits
        return [make(image, own, self.card) for image, own in zip(images, logits, strict=True)]

    def read(self, image: Any) -> Image:
        """Read an image with the channels of the network, (H, W, C) at its original size.

        Raises:
            MedvisionError: If the file cannot be read, or the array has another type or shape.
        """
        if isinstance(image, (str, Path)):
            path = Path(image).expanduser()
            return self.decode(read_bytes(path), where=str(path))
        pixels = np.asarray(image)
        grey = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1)
        if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] == 3)):
            raise MedvisionError(
                f"expected a file, or uint8 pixels (H, W), (H, W, 1) or (H, W, 3), got"
                f" {pixels.dtype} {pixels.shape}",
                where="image",
                hint="scale to 0..255 and drop other channels first",
            )
        if 0 in pixels.shape:
            raise MedvisionError(
                "the image has no pixels", where="image", hint="give another image"
            )
        return _with_channels(pixels.reshape(*pixels.shape[:2], -1), self.card.in_channels)

    def decode(
        self, data: bytes, *, where: str, remark: Callable[[str], object] | None = None
    ) -> Image:
        """Decode the bytes of an image file, like ``read``, with remarks on the conversion."""
        return decode_image(
            data,
            where=where,
            channels=self.card.in_channels,
            value_range=self.card.value_range,
            remark=remark,
        )

    def prepare(self, image: Image) -> NDArray[np.uint8]:
        """Resize and transform an image to the network input, (S, S, C)."""
        return self._transform(image, seed=0)[0]

    @cached_property
    def _transform(self) -> Transform:
        return Transform(
            size_px=self.card.image_size,
            transforms=self.card.eval_transforms,
            key="eval_transforms",
            deterministic=True,
        )

    def _logits(self, batch: NDArray[np.uint8], *, tta: bool) -> NDArray[np.float32]:
        """Compute logits of prepared images; with ``tta`` those of the mean probability."""
        if not tta:
            return self.engine.logits(batch)
        total: Any = 0.0
        known = np.ones(len(batch), bool)
        task = task_of(self.card.task)
        for axes in task.flips:
            mirrored = np.ascontiguousarray(np.flip(batch, tuple(axis + 1 for axis in axes)))
            logits = self.engine.logits(mirrored)
            if task.per_pixel:
                logits = np.flip(logits, tuple(axis + 2 for axis in axes))
            known &= np.isfinite(logits).reshape(len(logits), -1).all(axis=1)
            two = logits.shape[1] == 1
            total = total + (sigmoid(logits) if two else _softmax_of_channels(logits))
        mean = (total / len(task.flips)).astype(np.float64).clip(1e-12, 1 - 1e-12)
        mean[~known] = np.nan  # an infinite logit has a finite probability
        if mean.shape[1] == 1:
            return np.log(mean / (1 - mean)).astype(np.float32)
        return np.log(mean).astype(np.float32)


def _softmax_of_channels(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.moveaxis(softmax(np.moveaxis(logits, 1, -1)), -1, 1)


def _with_channels(pixels: Image, channels: int) -> Image:
    import cv2

    if pixels.shape[2] == channels:
        return np.ascontiguousarray(pixels)
    if channels == 1:
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None].astype(np.uint8, copy=False)
    return np.repeat(pixels, 3, axis=2)
