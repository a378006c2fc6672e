from __future__ import annotations

import pytest
import torch

from medvision.errors import MedvisionError
from medvision.losses import CrossEntropy
from medvision.models import UNet, count_parameters


def parameters_by_formula(base: int, in_channels: int, num_logits: int, batch_norm: bool) -> int:
    """Count the weights of the paper's figure: 3x3, 3x3 per level; 2x2 up; 1x1 out."""
    beside = 2 if batch_norm else 1  # scale and shift, or a bias

    def double(fan_in: int, width: int) -> int:
        return 9 * fan_in * width + 9 * width**2 + 2 * beside * width

    count = double(in_channels, base) + base * num_logits + num_logits
    for level in range(1, 5):
        deep, shallow = base * 2**level, base * 2 ** (level - 1)
        down = double(shallow, deep)
        grow = 4 * deep * shallow + shallow
        up = double(deep, shallow)  # of the skip and the grown features, shallow each
        count += down + grow + up
    return count


@pytest.mark.parametrize(
    ("base", "batch_norm", "expected"),
    [
        (64, False, 31_031_745),
        (64, True, 31_037_633),
        (16, False, 1_941_105),
        (16, True, 1_942_577),
    ],
)
def test_number_of_parameters_is_that_of_the_paper(
    base: int, batch_norm: bool, expected: int
) -> None:
    assert count_parameters(UNet(base_channels=base, batch_norm=batch_norm)) == expected
    assert expected == parameters_by_formula(base, 3, 1, batch_norm)


def test_number_of_parameters_follows_channels_and_classes() -> None:
    model = UNet(base_channels=4, in_channels=1, num_classes=5)
    assert count_parameters(model) == parameters_by_formula(4, 1, 5, batch_norm=False)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_activations_keep_their_scale_at_the_start(batch_norm: bool) -> None:
    torch.manual_seed(0)
    model = UNet(base_channels=8, batch_norm=batch_norm)
    with torch.no_grad():
        logits = model(torch.rand(4, 3, 64, 64))
    assert 0.05 < logits.std() < 10


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [False, True])
def test_learns_bright_discs_with_adam_at_1e_4(batch_norm: bool) -> None:
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    centres = torch.randint(8, 24, (4, 2, 1, 1))
    target = ((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2 < 40).to(torch.uint8)
    image = (target[:, None] * 120 + torch.randint(0, 60, (4, 1, 32, 32))).to(torch.uint8)

    model = UNet(in_channels=1, base_channels=16, batch_norm=batch_norm)
    loss = CrossEntropy()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for _ in range(120):
        optimizer.zero_grad()
        value = loss(model(image), target)
        value.backward()
        optimizer.step()
    predicted = model(image)[:, 0] > 0
    overlap = (predicted & (target == 1)).sum()
    assert 2 * overlap / (predicted.sum() + target.sum()) > 0.9


def test_padding_does_not_reach_the_logits_of_a_size_that_fits() -> None:
    model = UNet(base_channels=2).eval()
    image = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        padded = model(image[..., :40, :40])
        repeated = torch.nn.functional.pad(image[..., :40, :40], (0, 8, 0, 8), mode="replicate")
        torch.testing.assert_close(padded, model(repeated)[..., :40, :40])


@pytest.mark.parametrize("base_channels", [0, -1, 1.5])
def test_impossible_widths_are_refused(base_channels: int) -> None:
    with pytest.raises(MedvisionError, match=r"\(model.base_channels\)"):
        UNet(base_channels=base_channels)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_joined_features_in_parts_equal_concatenated_ones(batch_norm: bool) -> None:
    torch.manual_seed(0)
    level = UNet(base_channels=4, batch_norm=batch_norm).double().up[0]
    skip, grown = torch.randn(2, 2, 32, 5, 6, dtype=torch.double)
    torch.testing.assert_close(level.in_parts(skip, grown), level(skip, grown))
