"""Models with outputs that are known by hand."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medvision.inference import Model, ModelCard


class Brightness:
    """Engine whose logit is brightness: above mid-grey is positive."""

    threads = 2

    def __init__(self, task: str, num_classes: int) -> None:
        self.task, self.num_classes = task, num_classes
        self.batches: list[int] = []

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        level = images.mean(axis=3, dtype=np.float32)[:, None] / 16 - 8
        if self.task == "classification":
            level = level.mean(axis=(2, 3))
        if self.num_classes == 2:
            return level
        return np.concatenate([-level] + [level * k for k in range(1, self.num_classes)], axis=1)

    def side_by_side(self) -> AbstractContextManager[None]:
        return nullcontext()

    def start_thread(self) -> None:
        pass


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """Model with the brightness engine."""

    def make(
        task: str = "segmentation",
        class_names: Sequence[str] = ("background", "polyp"),
        *,
        in_channels: int = 3,
        threshold: float = 0.5,
    ) -> Model:
        card = ModelCard(
            task=task,
            name="medvision.models.UNet",
            arguments={},
            architecture="brightness",
            num_parameters=1,
            class_names=tuple(class_names),
            image_size=32,
            in_channels=in_channels,
            mean=(0.5,) * in_channels,
            std=(0.5,) * in_channels,
            eval_transforms={},
            threshold=threshold,
            value_range=None,
            precision="32-true",
            experiment="",
            dataset="",
            synthetic=False,
        )
        engine = Brightness(task, len(class_names))
        return Model(card=card, engine=engine, source=Path("brightness"))

    return make
