"""Model card: metadata stored with the tensors of a network that describes how to use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from medvision.errors import MedvisionError
from medvision.files import runs_in_spreadsheets
from medvision.task_definition import task_names, task_of

FORMAT = 1
"""Version of the card format, stored in every checkpoint."""

MOST = 10**15
"""Largest absolute value of a number."""

MOST_OF_A_LAYER, MOST_PX, MOST_SCALE = 1_000_000, 16_384, 100
"""Largest integer among the arguments of a network, and among those of a transform; largest factor
by which a transform may enlarge images."""

MOST_CLASSES = 65_536
LONGEST_TEXT = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """All metadata of a trained network, as plain values.

    Attributes:
        task: Kind of the task, such as ``segmentation``.
        name: Class of the network, such as ``medvision.models.UNet``.
        arguments: Arguments that build the network again, ready to load its tensors.
        architecture: Display name.
        num_parameters: Number of trainable parameters.
        class_names: The K classes, or the names of the network's outputs; for a segmentation the
            background first.
        image_size: Height and width of the network input, in pixels.
        in_channels: 1 (grey) or 3 (RGB).
        mean: Mean of pixels in [0, 1], subtracted by the network itself.
        std: Standard deviation of pixels in [0, 1]; the network itself divides by it.
        eval_transforms: Deterministic albumentations transforms after the resize, by name.
        threshold: Probability from which the foreground, or the second of two classes, is
            predicted.
        value_range: Values that become black and white in files of more than 8 bits.
        precision: Precision of training and evaluation, as named by Lightning.
        experiment: Name of the experiment; empty if unknown.
        dataset: Name of the training data set; empty if unknown.
        synthetic: If True, the data set consists of phantoms.
    """

    task: str
    name: str
    arguments: dict[str, Any]
    architecture: str
    num_parameters: int
    class_names: tuple[str, ...]
    image_size: int
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    eval_transforms: dict[str, dict[str, Any]]
    threshold: float
    value_range: tuple[float, float] | None
    precision: str
    experiment: str
    dataset: str
    synthetic: bool

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @classmethod
    def from_dict(cls, values: Any, *, where: str) -> ModelCard:
        """Read the plain values of a checkpoint, of a JSON file or of an ONNX file.

        Args:
            values: Content of the file; any type.
            where: File to name in messages.

        Raises:
            MedvisionError: If it is not a card, has a newer format, or contains an invalid value.
        """
        if not isinstance(values, Mapping) or "format" not in values:
            raise MedvisionError(
                "expected a medvision model, but the model card is missing",
                where=where,
                hint="give a run folder, or a .ckpt, .onnx or .safetensors file of medvision",
            )
        if values["format"] != FORMAT:
            raise MedvisionError(
                f"expected a model of format {FORMAT}, got {values['format']}",
                where=where,
                hint="use the medvision version that wrote it",
            )
        read = _Reader(values, where)
        network = _Reader(read("model", lambda v: isinstance(v, Mapping)), where)
        name = network("name", _is_text)
        in_channels = read("in_channels", lambda v: v in (1, 3))
        task = task_of(read("task", lambda v: v in task_names()))
        return cls(
            task=task.kind,
            name=name,
            arguments=dict(network("arguments", _is_arguments)),
            architecture=read("architecture", _is_text, default=name.rpartition(".")[2]),
            num_parameters=read("num_parameters", lambda v: _is_count(v) and v < MOST),
            class_names=tuple(read("class_names", partial(_is_names, least=task.min_classes))),
            image_size=read("image_size", lambda v: _is_count(v) and 16 <= v <= 8192),
            in_channels=in_channels,
            mean=tuple(read("mean", lambda v: _is_numbers(v, in_channels))),
            std=tuple(read("std", lambda v: _is_numbers(v, in_channels) and min(v) > 0)),
            eval_transforms={
                str(key): dict(value or {})
                for key, value in read("eval_transforms", _is_transforms, default={}).items()
            },
            threshold=float(read("threshold", lambda v: _is_number(v) and 0 <= v <= 1)),
            value_range=_pair(read("value_range", _is_range, default=None)),
            precision=read("precision", _is_text, default="auto"),
            experiment=read("experiment", _is_text, default=""),
            dataset=read("dataset", _is_text, default=""),
            synthetic=read("synthetic", lambda v: isinstance(v, bool), default=False),
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values, which ``from_dict`` reads."""
        values = asdict(self)
        model = {"name": values.pop("name"), "arguments": values.pop("arguments")}
        plain = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
        return {"format": FORMAT, "model": model, **plain}


class _Reader:
    """Read and validate single values of a mapping."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def __call__(self, key: str, holds: Callable[[Any], bool], **default: Any) -> Any:
        value = self.values.get(key, default.get("default"))
        absent = key not in self.values and "default" in default
        if not (absent or holds(value)):
            raise MedvisionError(
                f"invalid {key} in the model card: {str(value)[:60]!r}",
                where=self.where,
                hint="the file is damaged or was not written by medvision",
            )
        return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def _is_plain(value: Any, *, most: int) -> bool:
    """Return True for a small plain value whose integers are at most ``most``."""
    inside = (*value, *value.values()) if isinstance(value, Mapping) else value
    if isinstance(inside, list | tuple):
        return len(inside) <= LONGEST_TEXT and all(_is_plain(one, most=most) for one in inside)
    if isinstance(value, int):
        return abs(value) <= most
    return value is None or isinstance(value, float) or _is_text(value)


def _is_arguments(value: Any, *, most: int = MOST_OF_A_LAYER) -> bool:
    return isinstance(value, Mapping) and _is_plain(value, most=most)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MOST  # also not NaN


def _is_numbers(value: Any, count: int) -> bool:
    return isinstance(value, Sequence) and len(value) == count and all(map(_is_number, value))


def _is_names(value: Any, *, least: int) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and least <= len(value) <= MOST_CLASSES
        and all(map(_is_text, value))
        and not any("\n" in name or runs_in_spreadsheets(name) for name in value)
        and len(set(value)) == len(value)
    )


def _is_transforms(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        options is None
        or (_is_arguments(options, most=MOST_PX) and all(map(_is_mild, options.items())))
        for options in value.values()
    )


def _is_mild(argument: tuple[str, Any]) -> bool:
    """Return True if an argument of a transform neither names a file nor enlarges images much."""
    name, value = argument
    return not name.endswith("path") and ("scale" not in name or _largest(value) <= MOST_SCALE)


def _largest(value: Any) -> float:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0)
    return abs(value) if isinstance(value, int | float) else 0


def _is_range(value: Any) -> bool:
    return value is None or (_is_numbers(value, 2) and value[0] < value[1])


def _pair(value: Sequence[float] | None) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))
