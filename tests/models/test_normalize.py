from __future__ import annotations

import pytest
import torch

from medvision.errors import MedvisionError, did_you_mean
from medvision.models import Normalize
from medvision.models.base import pad_to_multiple


def test_value_by_hand() -> None:
    normalize = Normalize(mean=[0.0, 0.2, 0.4], std=[1.0, 0.5, 0.1])
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    torch.testing.assert_close(normalize(image).flatten(), torch.tensor([0.0, 0.0, 6.0]))


def test_three_numbers_are_averaged_for_grey_images() -> None:
    normalize = Normalize(in_channels=1, mean=[0.1, 0.2, 0.6], std=[0.2, 0.3, 0.1])
    torch.testing.assert_close(normalize.mean, torch.full((1, 1, 1, 1), 0.3))
    torch.testing.assert_close(normalize.std, torch.full((1, 1, 1, 1), 0.2))


def test_one_number_applies_to_every_channel() -> None:
    assert Normalize(in_channels=4, mean=0.25).mean.flatten().tolist() == [0.25] * 4


def test_three_numbers_for_four_channels_are_refused() -> None:
    with pytest.raises(MedvisionError, match=r"expected 1 or 4 numbers, got 3 \(model.mean\)"):
        Normalize(in_channels=4, mean=[0.1, 0.2, 0.3])


@pytest.mark.parametrize("std", [0.0, -1.0, [0.5, 0.0, 0.5]])
def test_std_that_is_not_positive_is_refused(std: float | list[float]) -> None:
    with pytest.raises(MedvisionError, match="expected a positive std"):
        Normalize(std=std)


def test_images_without_channels_are_refused() -> None:
    with pytest.raises(MedvisionError, match=r"\(model.in_channels\)"):
        Normalize(in_channels=0)


def test_integer_images_other_than_uint8_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got torch.int64"):
        Normalize()(torch.zeros(1, 3, 2, 2, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_normalised_floats_have_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    assert Normalize()(torch.zeros(1, 3, 2, 2, dtype=dtype)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_channels_last_is_kept(dtype: torch.dtype) -> None:
    image = torch.zeros(2, 3, 5, 7, dtype=dtype).to(memory_format=torch.channels_last)
    result = pad_to_multiple(Normalize()(image), 8)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_padding_repeats_the_right_and_lower_border() -> None:
    image = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[None, None]
    expected = [[1, 2, 3, 3], [4, 5, 6, 6], [4, 5, 6, 6], [4, 5, 6, 6]]
    assert pad_to_multiple(image, 4)[0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("size", "multiple", "at_least", "expected"),
    [(32, 16, 1, 32), (33, 16, 1, 48), (1, 16, 1, 16), (20, 16, 128, 128), (130, 16, 128, 144)],
)
def test_padded_sizes_are_the_next_multiple(
    size: int, multiple: int, at_least: int, expected: int
) -> None:
    padded = pad_to_multiple(torch.zeros(1, 1, size, size), multiple, at_least=at_least)
    assert padded.shape[-2:] == (expected, expected)


def test_a_size_that_fits_is_not_copied() -> None:
    image = torch.zeros(1, 1, 16, 32)
    assert pad_to_multiple(image, 16) is image


def test_hints_name_the_nearest_choice_whatever_its_case() -> None:
    assert did_you_mean("unet", ["FPN", "Unet"], otherwise="") == "did you mean Unet?"
    assert did_you_mean("xyz", ["FPN", "Unet"], otherwise="look it up") == "look it up"
