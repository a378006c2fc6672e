from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvision.data.discovery.splits_csv import write_splits
from medvision.data.samples import Sample
from medvision.errors import MedvisionError
from medvision.export.check import choose_inputs
from medvision.inference.model_card import ModelCard


@pytest.fixture
def card(unet_checkpoint: Path) -> ModelCard:
    """Card of polyp segmentation at 32 pixels."""
    from medvision.inference import load_network

    return load_network(unet_checkpoint)[1]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write the config and splits of a run started in ``tmp_path``."""

    def make(root: Any, *, tested: list[str], run_dir: str = "runs/trial/1") -> Path:
        run = tmp_path / run_dir
        (run / "checkpoints").mkdir(parents=True)
        config = {"run_dir": run_dir, "data": {"root": root}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        samples = [Sample(path="images/a.png", target="", split="train")]
        samples += [Sample(path=path, target="", split="test") for path in tested]
        write_splits(run / "splits.csv", samples)
        return run

    return make


def names(count: int) -> list[str]:
    """Image paths of ``make_folder``."""
    return [f"images/case_{index:02d}.png" for index in range(count)]


def test_test_images_are_taken_from_the_whole_split(
    make_folder: Callable[..., Path], make_run: Callable[..., Path], card: ModelCard
) -> None:
    root = make_folder(15)
    run = make_run(str(root), tested=names(15))
    (run / "checkpoints" / "best.ckpt").touch()
    for source in (run, run / "checkpoints" / "best.ckpt"):
        chosen = choose_inputs(source, card, given=[])
        assert chosen.words == "8 test images of the run"
        assert chosen.images == [root / names(15)[row] for row in (0, 2, 4, 6, 8, 10, 12, 14)]


def test_a_relative_folder_is_resolved_from_the_start_of_the_run(
    make_folder: Callable[..., Path],
    make_run: Callable[..., Path],
    card: ModelCard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_folder(2)
    run = make_run("set", tested=names(2))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    chosen = choose_inputs(run, card, given=[])
    assert chosen.words == "2 test images of the run"
    assert [Path(str(image)).is_file() for image in chosen.images] == [True, True]


@pytest.mark.parametrize(
    ("root", "tested", "why"),
    [
        pytest.param(None, 3, "the run was trained on phantoms", id="phantoms"),
        pytest.param("/gone", 3, "the test images of the run are not in /gone", id="gone"),
        pytest.param("/gone", 0, "the run has no test images", id="no-test-split"),
    ],
)
def test_phantoms_are_drawn_with_a_reason(
    make_run: Callable[..., Path], card: ModelCard, root: str | None, tested: int, why: str
) -> None:
    chosen = choose_inputs(make_run(root, tested=names(tested)), card, given=[])
    assert chosen.words == f"8 phantoms, because {why}"
    assert {image.shape for image in chosen.images if not isinstance(image, Path)} == {(32, 32, 3)}


def test_a_model_in_no_run_folder_is_checked_on_phantoms(
    unet_checkpoint: Path, card: ModelCard
) -> None:
    chosen = choose_inputs(unet_checkpoint, card, given=[])
    assert chosen.words == "8 phantoms, because the model is not in a run folder"
    assert len(chosen.images) == 8


def test_a_config_of_another_program_is_not_a_run(
    make_run: Callable[..., Path], card: ModelCard
) -> None:
    run = make_run(None, tested=names(1))
    for text in ("[1, 2]", "data: 3", "a: [", "data: {}"):
        (run / "config.yaml").write_text(text)
        assert "data.root is missing in " in choose_inputs(run, card, given=[]).words


def test_a_damaged_table_of_splits_is_reported(
    make_run: Callable[..., Path], card: ModelCard
) -> None:
    run = make_run("/data", tested=names(1))
    (run / "splits.csv").write_text("nothing\n")
    with pytest.raises(MedvisionError, match="expected a column path"):
        choose_inputs(run, card, given=[])


def test_given_files_and_folders_are_used(
    make_folder: Callable[..., Path], card: ModelCard, tmp_path: Path
) -> None:
    root = make_folder(3)
    (root / "images" / "readme.txt").touch()
    chosen = choose_inputs(tmp_path, card, given=[root / "images"])
    assert chosen.words == "3 images given"
    assert [Path(str(image)).name for image in chosen.images] == [Path(n).name for n in names(3)]
    assert chosen.notes == [f"other files in {root / 'images'} were ignored: 1 .txt"]
