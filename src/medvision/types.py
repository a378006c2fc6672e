"""Types that every package shares: batches, stages and the legend of shape letters.

Legend, used in every docstring: N samples, C channels, K classes, H and W pixels.
An image tensor is (N, C, H, W); a segmentation target is (N, H, W) with class indices
in [0, K) or ``IGNORE_INDEX``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:  # torch takes seconds to import; config errors must not wait for it
    from torch import Tensor

IGNORE_INDEX = 255
"""Target value of pixels and samples that losses and metrics ignore."""

RESEARCH_ONLY = "For research use only: not a medical device, not for diagnosis."
"""Disclaimer shown beside every prediction."""

Stage = Literal["train", "val", "test"]

STAGES: tuple[Stage, ...] = ("train", "val", "test")


def single_logit(logits: Tensor, num_classes: int) -> Tensor:
    r"""Logit of the second of two classes, whatever number of logits the network has for them.

    .. math:: \mathrm{softmax}(z_0, z_1)_1 = \mathrm{sigmoid}(z_1 - z_0)

    Args:
        logits: (N, 1 or K, ...).
        num_classes: K.

    Returns:
        (N, 1, ...) for two classes; for more the logits as they are.
    """
    if num_classes == 2 and logits.shape[1] == 2:
        return logits[:, 1:].float() - logits[:, :1].float()
    return logits


class Batch(TypedDict):
    """Batch of a data loader, the input of a task.

    Rows of index -1 pad a batch to a fixed shape: their image is black, and losses and scores must
    ignore every value of their target.

    Attributes:
        image: uint8 (N, C, H, W) in [0, 255]; models also take floats in [0, 1].
        target: Class indices uint8, (N, H, W) of pixels or (N,) of images, or any other target
            (N, ...) of unsigned integers or floats, such as several labels (N, L) of each image.
            ``IGNORE_INDEX`` is ignored among integers, NaN among floats.
        index: int64 (N,), row of each sample in its split's table, or -1.
    """

    image: Tensor
    target: Tensor
    index: Tensor
