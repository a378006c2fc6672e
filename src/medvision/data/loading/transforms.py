"""Resize and augment images, with or without masks, using albumentations."""

import inspect
import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.samples import Pixels
from medvision.errors import MedvisionError, did_you_mean
from medvision.types import IGNORE_INDEX

REFERENCE = "see the albumentations 2 reference"


def resize(image: NDArray[np.uint8], mask: NDArray[np.uint8] | None, size_px: int) -> Pixels:
    """Resize an image, and its mask if it has one, to a square.

    Images are downsampled by area averaging and upsampled bilinearly. Masks use the nearest pixel
    centre, so no intermediate class indices appear.

    Args:
        image: (H, W, C), values in [0, 255].
        mask: (H, W), class indices; or None.
        size_px: Height and width of the result; pixels.

    Returns:
        Image (size_px, size_px, C) and mask (size_px, size_px) or None.
    """
    size = (size_px, size_px)
    if image.shape[:2] == size:
        return image, mask
    if mask is not None:
        nearest = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        mask = nearest.astype(np.uint8, copy=False)
    shrinks = min(image.shape[:2]) > size_px
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    # OpenCV drops the axis of a single channel
    return resized.reshape(*size, image.shape[2]).astype(np.uint8, copy=False), mask


class Transform:
    """Resize to ``size_px``, then apply the named albumentations in order.

    Random numbers are drawn from the seed of each call, so a sample is independent of loading
    process and order.

    Args:
        size_px: Height and width of the result; pixels.
        transforms: Arguments of each albumentations class, by class name.
        key: Config key of the transforms, for messages.
        deterministic: If True, reject transforms that depend on the seed.

    Raises:
        MedvisionError: If a name or an argument is unknown, or a transform is random although
            ``deterministic``.
    """

    def __init__(
        self,
        *,
        size_px: int,
        transforms: Mapping[str, Mapping[str, Any]],
        key: str,
        deterministic: bool = False,
    ) -> None:
        self.size_px = size_px
        self._arguments = (transforms, key, deterministic)
        self.pipeline = _build_pipeline(*self._arguments)
        if deterministic and self.pipeline is not None:
            self._refuse_chance(key)

    @cached_property
    def _ignoring_outside(self) -> Any:
        return _build_pipeline(*self._arguments, fill_mask=IGNORE_INDEX)

    def __call__(
        self,
        image: NDArray[np.uint8],
        mask: NDArray[np.uint8] | None = None,
        *,
        seed: int,
        has_view: bool = False,
    ) -> Pixels:
        """Transform an image (H, W, C) and its mask (H, W) alike.

        Args:
            image: The image.
            mask: Class indices, or None.
            seed: Seed of every random number.
            has_view: If True, the mask is ignored outside of a field of view. What a rotation or a
                shift brings in from outside of the image is then ignored too, instead of being
                background.
        """
        image, mask = resize(image, mask, self.size_px)
        if self.pipeline is None:
            return image, mask
        pipeline = self._ignoring_outside if has_view else self.pipeline
        pipeline.set_random_seed(seed)
        given = {"image": image} if mask is None else {"image": image, "mask": mask}
        result = pipeline(**given)
        changed = result["image"]
        return changed.reshape(*changed.shape[:2], -1), result.get("mask")

    def keeps_pixels_in_place(self) -> bool:
        """True if masks are unchanged, so that they still match the file."""
        image, mask = self._noise()
        return np.array_equal(np.asarray(self(image, mask, seed=0)[1]), mask)

    def _noise(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (self.size_px, self.size_px, 3), dtype=np.uint8)
        return image, (image[..., 0] > 127).astype(np.uint8)

    def _refuse_chance(self, key: str) -> None:
        image, mask = self._noise()
        changed = {
            b"".join(np.asarray(p).tobytes() for p in self(image, mask, seed=s)) for s in range(8)
        }
        if len(changed) > 1:
            raise MedvisionError(
                "expected deterministic transforms of validation and test images, got a random one",
                where=key,
                hint="keep random transforms in data.train_transforms",
            )


def _build_pipeline(
    transforms: Mapping[str, Mapping[str, Any]], key: str, always: bool, *, fill_mask: int = 0
) -> Any:
    """Compose the named transforms; None without any, because the import takes a second.

    ``fill_mask`` is the class of pixels from outside of the image, where the user names none.
    """
    if not transforms:
        return None
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # disables a network request at import
    import albumentations

    steps = []
    for name, arguments in transforms.items():
        where = f"{key}.{name}"
        factory: Any = getattr(albumentations, name, None)
        is_transform = inspect.isclass(factory) and issubclass(
            factory, albumentations.BasicTransform
        )
        if not is_transform:
            raise MedvisionError(
                f"unknown albumentations transform {name}",
                where=where,
                hint=did_you_mean(name, dir(albumentations), otherwise=REFERENCE),
            )
        options = dict(arguments or {})
        if always:
            options.setdefault("p", 1.0)
        parameters = inspect.signature(factory).parameters
        if fill_mask and "fill_mask" in parameters and parameters["fill_mask"].default == 0:
            options.setdefault("fill_mask", fill_mask)
        known = set(factory.InitSchema.model_fields) | {"p"}
        unknown = sorted(set(options) - known)
        if unknown:
            takes = f"choose from {', '.join(sorted(known))}"
            raise MedvisionError(
                f"{name} has no argument {unknown[0]}",
                where=where,
                hint=did_you_mean(unknown[0], sorted(known), otherwise=takes),
            )
        try:
            steps.append(factory(**options))
        except (TypeError, ValueError) as error:
            reason = str(error).splitlines()
            raise MedvisionError(
                f"invalid arguments of {name}: {' '.join(reason[1:3] or reason)}",
                where=where,
                hint=REFERENCE,
            ) from error
    return albumentations.Compose(steps)
