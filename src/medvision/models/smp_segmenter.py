"""Segmentation networks of segmentation-models-pytorch."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
import timm
from torch import Tensor, nn

from medvision.errors import MedvisionError, did_you_mean, first_line
from medvision.models.base import first_stages, num_logits, pad_to_multiple
from medvision.models.normalize import Normalize
from medvision.models.weights import SOURCE_OPTIONS, load_encoder_weights

STRIDE_FACTOR = {"DPT": 2}
"""Architectures that halve the encoder's deepest features, whose size must then be even."""

SMALLEST_FEATURES_PX = {"PAN": 8, "FPN": 2}
"""Architectures that pool or normalise the deepest features, with the smallest size that allows it:
group norm refuses a single value per channel."""

OWN_ARGUMENTS = {
    *("self", "kwargs", "encoder_name", "encoder_weights", "in_channels", "classes"),
    *("activation", "aux_params"),  # they would change the logits
}


class SmpSegmenter(nn.Module):
    """A network of segmentation-models-pytorch (smp) with the interface of this package.

    Images of any size are padded to a multiple of the encoder's output stride, and logits are
    cropped. Mean and std are those of the pretrained weights, or 0.5 without weights.

    Args:
        architecture: Name of a class in smp, such as ``Unet``, ``FPN`` or ``DeepLabV3Plus``.
        encoder: Name of an encoder in smp, or ``tu-`` and the name of a network in timm.
        weights: ``none``, ``imagenet``, ``packaged`` or a file, see ``load_encoder_weights``.
            Only ``imagenet`` needs network access.
        in_channels: Number of image channels.
        num_classes: K, including the background.
        **options: Further arguments of the architecture (``decoder_channels``), or of a timm
            encoder.

    Attributes:
        architecture: Display name, including the encoder.
        loaded_weights: Source of the encoder's weights, and the tensors that were filled.

    Raises:
        MedvisionError: If a name is unknown, an option does not fit or weights are unavailable.
    """

    def __init__(
        self,
        *,
        architecture: str = "Unet",
        encoder: str = "resnet34",
        weights: str = "none",
        in_channels: int = 3,
        num_classes: int = 2,
        **options: Any,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_classes = num_classes
        architecture, encoder = str(architecture), str(encoder)  # YAML parses 18 as a number
        network_class = _find_architecture(architecture)
        _check_encoder(encoder)
        _check_options(network_class, encoder, options)
        if network_class is smp.DPT:
            options.setdefault("dynamic_img_size", True)  # a ViT otherwise has a fixed input size

        build = partial(
            network_class,
            encoder_name=encoder,
            in_channels=in_channels,
            classes=num_logits(num_classes),
            **options,
        )
        try:
            network = build(encoder_weights=None)
        except Exception as error:  # smp and timm raise whatever their layers raise
            raise MedvisionError(
                f"{network_class.__name__} with encoder {encoder} cannot be built: "
                f"{first_line(error)}",
                where="model",
                hint="change model.architecture, model.encoder or their options",
            ) from error
        self.architecture = f"{network_class.__name__} with encoder {encoder}"
        pretrained = True if encoder.startswith("tu-") else "imagenet"
        loaded = load_encoder_weights(
            network.encoder,
            name=encoder,
            weights=weights,
            in_channels=in_channels,
            download=lambda: build(encoder_weights=pretrained).encoder,
        )
        self.loaded_weights = loaded.within(network, "encoder")
        self.normalize = Normalize(in_channels=in_channels, mean=loaded.mean, std=loaded.std)
        self.network = network
        stride_px = int(network.encoder.output_stride)
        self.multiple_px = stride_px * STRIDE_FACTOR.get(network_class.__name__, 1)
        self.smallest_px = stride_px * SMALLEST_FEATURES_PX.get(network_class.__name__, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, 1 or K, H, W)."""
        height, width = image.shape[-2:]
        x = pad_to_multiple(self.normalize(image), self.multiple_px, at_least=self.smallest_px)
        logits = self.network(x)
        if logits.shape[-2:] != x.shape[-2:]:
            raise MedvisionError(
                f"expected logits of {tuple(x.shape[-2:])} pixels, got {tuple(logits.shape[-2:])}",
                where="model.upsampling",
                hint="choose it so that logits and images have the same size",
            )
        return logits[..., :height, :width]

    def head_modules(self) -> list[nn.Module]:
        """Modules that are new for the task; all other parameters belong to the encoder."""
        return [self.network.decoder, self.network.segmentation_head]

    def first_stages(self, count: int) -> list[nn.Module]:
        """Layers of the encoder up to the features of its first stages, for encoders of timm."""
        return first_stages(getattr(self.network.encoder, "model", self.network.encoder), count)

    def first_layers(self) -> list[nn.Module]:
        """Layers that see the image itself; for timm's EfficientNet family also the first stage."""
        encoder = self.network.encoder
        network = getattr(encoder, "model", encoder)
        if all(hasattr(network, name) for name in ("conv_stem", "bn1", "blocks")):
            return [network.conv_stem, network.bn1, network.blocks[0]]
        return [next(layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d))]


def _find_architecture(name: str) -> Any:
    known = {cls.__name__: cls for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    if name not in known:
        raise MedvisionError(
            f"unknown architecture {name}",
            where="model.architecture",
            hint=did_you_mean(name, known, otherwise=f"choose one of {', '.join(known)}"),
        )
    return known[name]


def _check_encoder(name: str) -> None:
    if name in smp.encoders.encoders:
        return
    architecture = name.removeprefix("tu-").split(".")[0]  # the rest names the training recipe
    if name.startswith("tu-") and timm.is_model(architecture):
        return
    known = [*smp.encoders.encoders, *(f"tu-{model}" for model in timm.list_models())]
    raise MedvisionError(
        f"unknown encoder {name}",
        where="model.encoder",
        hint=did_you_mean(
            name, known, otherwise="use resnet34, or tu- followed by a name from timm.list_models()"
        ),
    )


def _check_options(network_class: Any, encoder: str, options: dict[str, Any]) -> None:
    """Reject options that smp would silently ignore, or that would break the interface."""
    parameters = set(inspect.signature(network_class.__init__).parameters)
    known = sorted(parameters - OWN_ARGUMENTS)
    for name in options:
        if name in known:
            continue
        hint = did_you_mean(name, known, otherwise="")
        if name in SOURCE_OPTIONS:
            hint = "set model.weights"
        elif encoder.startswith("tu-") and not hint and name not in OWN_ARGUMENTS:
            continue  # timm checks its own options
        raise MedvisionError(
            f"{network_class.__name__} has no option {name}",
            where=f"model.{name}",
            hint=hint or f"choose from {', '.join(known)}",
        )
