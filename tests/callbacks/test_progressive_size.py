"""Smaller images in the first steps of a training."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from medvision.callbacks import ProgressiveSize
from medvision.errors import MedvisionError
from medvision.run.config.schema import check_config
from medvision.run.config.store import CONF


def started(
    callback: ProgressiveSize, batch: Any, *, step: int, of: int = 100, device: str = "cpu"
) -> Any:
    """Start one step of a training of ``of`` steps."""
    trainer: Any = SimpleNamespace(
        global_step=step, estimated_stepping_batches=of, is_global_zero=True
    )
    task: Any = SimpleNamespace(device=torch.device(device))
    callback.on_train_start(trainer, task)
    callback.on_train_batch_start(trainer, task, batch, 0)
    return batch


def batch_of(height: int, width: int, **target: torch.Tensor) -> dict[str, torch.Tensor]:
    image = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    return {"image": image, "target": torch.zeros(2, height, width, dtype=torch.uint8), **target}


@pytest.mark.parametrize(
    ("step", "size"),
    [(0, 128), (49, 128), (50, 128), (65, 192), (79, 256), (80, 256), (99, 256)],
)
def test_the_size_grows_between_the_delay_and_the_last_steps(step: int, size: int) -> None:
    batch = started(ProgressiveSize(), batch_of(256, 256), step=step)
    assert batch["image"].shape == (2, 3, size, size)
    assert batch["target"].shape == (2, size, size)


def test_sizes_in_between_are_multiples_and_never_exceed_the_full_one() -> None:
    callback = ProgressiveSize(initial_scale=0.3, delay_fraction=0.0, finetune_fraction=0.1)
    sizes = [callback.size_at(step / 100, 250) for step in range(100)]
    assert sizes == sorted(sizes)
    assert {size % 32 for size in sizes if size < 250} == {0}
    assert (sizes[0], sizes[-1]) == (64, 250)
    assert callback.size_at(0, 20) == 20  # smaller than one multiple


def test_height_and_width_are_reduced_each_by_its_own_size() -> None:
    batch = started(ProgressiveSize(), batch_of(128, 256), step=0)
    assert batch["image"].shape[-2:] == batch["target"].shape[-2:] == (64, 128)


def test_masks_stay_on_their_images_and_keep_their_values() -> None:
    full = batch_of(256, 256)
    full["image"].zero_()[..., 64:128, 32:96] = 255
    full["target"][..., 64:128, 32:96] = 7
    full["target"][..., :16, :] = 255  # ignored
    batch = started(ProgressiveSize(), full, step=0)
    assert batch["image"].dtype == torch.uint8
    assert batch["target"].unique().tolist() == [0, 7, 255]
    assert torch.equal(batch["target"] == 7, batch["image"][:, 0] > 127)
    assert (batch["target"] == 7).sum(dim=(1, 2)).tolist() == [32 * 32] * 2


def test_labels_of_whole_images_are_left_alone() -> None:
    labels = torch.tensor([3, 1])
    batch = started(ProgressiveSize(), batch_of(64, 64, target=labels), step=0)
    assert batch["image"].shape[-1] == 32
    assert batch["target"] is labels


def test_the_memory_layout_of_images_is_kept() -> None:
    full = batch_of(128, 128)
    full["image"] = full["image"].contiguous(memory_format=torch.channels_last)
    image = started(ProgressiveSize(), full, step=0)["image"]
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_xla_gets_the_full_size_and_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    batch = started(ProgressiveSize(), batch_of(64, 64), step=0, device="xla")
    assert batch["image"].shape[-1] == 64
    assert capsys.readouterr().out.startswith("note: images have their full size in every step")


def test_batches_must_be_dicts() -> None:
    with pytest.raises(MedvisionError, match="expected batches that are dicts, got a tuple"):
        started(ProgressiveSize(), (torch.zeros(1, 3, 8, 8), torch.zeros(1)), step=0)


def test_shares_above_the_whole_training_are_refused() -> None:
    with pytest.raises(MedvisionError, match=r"add up to at most 1, got 0\.6 and 0\.5"):
        ProgressiveSize(delay_fraction=0.6, finetune_fraction=0.5)


def test_such_shares_in_a_config_are_refused_before_the_run_folder_exists() -> None:
    shares = "callbacks.progressive_size={delay_fraction: 0.9, finetune_fraction: 0.2}"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["experiment=polyp_quick", shares])
    with pytest.raises(MedvisionError, match=r"at most 1, got 0\.9 and 0\.2"):
        check_config(cfg)
