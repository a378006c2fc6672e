import io
import random

import numpy as np
import torch
from torch.utils.data import DataLoader

from medvision.hardware import random_state, set_random_state


def draw() -> tuple[float, float, float]:
    return float(torch.rand(())), random.random(), float(np.random.random())  # noqa: NPY002


def test_a_restored_random_state_repeats_the_draws() -> None:
    state = random_state("cpu")
    first = draw()
    draw()
    set_random_state(state)
    assert draw() == first


def test_the_random_state_is_loaded_without_unpickling() -> None:
    stream = io.BytesIO()
    torch.save(random_state("cpu"), stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=True)
    first = draw()
    set_random_state(loaded)
    assert draw() == first


def test_starting_a_loader_advances_the_random_state_as_expected() -> None:
    foreseen = random_state("cpu", of_next_loader=True)
    untouched = random_state("cpu")
    iter(DataLoader([1, 2, 3]))
    assert torch.equal(torch.get_rng_state(), foreseen["cpu"])
    assert not torch.equal(foreseen["cpu"], untouched["cpu"])
