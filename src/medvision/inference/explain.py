"""Grad-CAM heat maps of the image regions that support a class."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvision.errors import MedvisionError, install_command
from medvision.models.base import pad_to_multiple


def explain(
    model: nn.Module, images: NDArray[np.uint8], classes: Sequence[int], *, num_classes: int
) -> NDArray[np.float32]:
    r"""Compute Grad-CAM heat maps of the image regions that support a class.

    For feature maps :math:`A^k` of the last layer with spatial dimensions, and the score
    :math:`y` of the class,

    .. math:: L = \mathrm{ReLU}\Big(\sum_k \overline{\partial y / \partial A^k} \, A^k\Big)

    with the mean over the pixels of a map. Two classes have one logit, that of class 1; its
    negative is the score of class 0. Each map is then scaled to [0, 1] by its lowest and highest
    value and enlarged bilinearly, so maps of different images cannot be compared. A constant map,
    such as one without support for the class, is 0.

    Computed in float32 and in evaluation mode, also inside ``torch.inference_mode`` and for weights
    in bfloat16. The model's mode, flags, gradients and hooks are restored.

    Args:
        model: A classifier of ``medvision.models`` with ``feature_maps``.
        images: (N, H, W, C) in [0, 255].
        classes: Class to explain in each image, N of them in [0, K).
        num_classes: K.

    Returns:
        (N, H, W) in [0, 1].

    Raises:
        MedvisionError: If grad-cam is missing, or the network has no feature maps.
        ValueError: If a class is out of range or the numbers of classes and images differ.

    References:
        Selvaraju et al., Grad-CAM, ICCV 2017, https://arxiv.org/abs/1610.02391
    """
    if len(classes) != len(images) or not all(0 <= label < num_classes for label in classes):
        raise ValueError(f"expected {len(images)} classes in [0, {num_classes}), got {classes}")
    if not hasattr(model, "feature_maps"):
        raise MedvisionError(
            f"{type(model).__name__} has no image feature maps",
            where="model",
            hint="heat maps need a convolutional classifier",
        )
    grad_cam = _import_grad_cam()
    model = in_float32(model)
    height, width = images.shape[1:3]
    if len(images) == 0:
        return np.zeros((0, height, width), np.float32)

    device = next(model.parameters()).device
    with (
        torch.inference_mode(mode=False),
        torch.set_grad_enabled(True),
        torch.autocast(device.type, enabled=False),
        _undisturbed(model),
    ):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(device).float() / 255
        # the network pads small images itself: the map covers the padded image
        pixels = pad_to_multiple(pixels, 1, at_least=getattr(model, "smallest_px", 1))
        cut = _CutModel(model)
        cam = grad_cam(model=cut, target_layers=[cut.explained])
        try:
            heat = cam(pixels, [_score(label, num_classes) for label in classes])
        finally:
            cam.activations_and_grads.release()
    return np.ascontiguousarray(heat[:, :height, :width], dtype=np.float32)


def in_float32(model: nn.Module) -> nn.Module:
    """Return a copy with all weights in float32, or the model itself if they are."""
    tensors = (*model.parameters(), *model.buffers())
    if all(tensor.dtype == torch.float32 for tensor in tensors if tensor.is_floating_point()):
        return model
    return copy.deepcopy(model).float()


class _CutModel(nn.Module):
    """A model whose feature maps pass through an extra layer, where backpropagation stops.

    The layers before it, nearly all of the network, need no gradients.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.explained = nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            maps = self.model.feature_maps(image)
        # cloned, because later layers may work in place and Grad-CAM reads the maps afterwards
        return self.model.classify(self.explained(maps.requires_grad_()).clone())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Keep the gradients of the model's owner, which Grad-CAM would clear."""


def _score(label: int, num_classes: int) -> Callable[[Tensor], Tensor]:
    """Return the function from the logits (1 or K,) of an image to the score to explain."""
    if num_classes == 2:
        return lambda logits: logits[0] if label == 1 else -logits[0]
    return lambda logits: logits[label]


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate a model without parameter gradients, then restore its state."""
    modes = [(module, module.training) for module in model.modules()]
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in learned:
            parameter.requires_grad_(True)


def _import_grad_cam() -> Any:
    try:
        from pytorch_grad_cam import GradCAM  # slow import, for heat maps only
    except ImportError as error:
        raise MedvisionError(
            f"heat maps need the package grad-cam: {error}",
            where="pytorch_grad_cam",
            hint=f"run: {install_command('explain')}",
        ) from error
    return GradCAM
