"""The functions of ``import medvision``."""

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import structure
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

import medvision
from medvision import MedvisionError
from medvision.models import SimpleCNN
from medvision.tasks import ClassificationTask, SegmentationTask

FUNCTIONS = (
    *("audit_dataset", "compare", "evaluate", "load_model", "read_image", "read_mask", "train"),
)
SMALL = (
    *("trainer=cpu", "logger=csv", "data.image_size=32", "data.num_images=24", "data.batch_size=4"),
    *("data.num_workers=0", "trainer.max_epochs=1", "model.base_channels=2"),
)


def test_importing_medvision_loads_nothing_slow_and_lists_its_functions() -> None:
    slow = ("torch", "numpy", "hydra", "rich", "yaml")
    code = (
        "import sys, medvision; print(*dir(medvision));"
        f" print([m for m in {slow} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, loaded = done.stdout.splitlines()
    assert names.split() == ["MedvisionError", *FUNCTIONS]
    assert loaded == "[]"


def test_the_functions_stay_callable_after_any_module_is_imported() -> None:
    src = Path(medvision.__file__).parents[1]
    for module in structure.module_names(src):
        runs = module.endswith(("app.page", "app.server"))  # pages of Streamlit run when imported
        if module.startswith("medvision.") and "xla" not in module and not runs:
            importlib.import_module(module)
    for name in FUNCTIONS:
        assert inspect.isfunction(getattr(medvision, name)), name
    assert issubclass(medvision.MedvisionError, Exception)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_typed_and_documents_arguments_result_and_errors(name: str) -> None:
    function = getattr(medvision, name)
    signature = inspect.signature(function)
    assert "None" not in str(signature.return_annotation)
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert (
            f" {'*' * (parameter.kind == parameter.VAR_POSITIONAL)}{parameter.name}: "
            in function.__doc__
        )
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in function.__doc__


def test_images_and_masks_are_read_as_in_training(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([grey, 0 * grey, grey], 2)).save(tmp_path / "colour.png")
    assert np.array_equal(medvision.read_image(tmp_path / "grey.png"), grey[..., None])
    assert medvision.read_image(str(tmp_path / "grey.png"), channels=3).shape == (3, 4, 3)
    assert medvision.read_image(tmp_path / "colour.png").shape == (3, 4, 3)
    assert medvision.read_image(tmp_path / "colour.png", channels=1).shape == (3, 4, 1)
    Image.fromarray(np.where(grey > 5, 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    assert np.array_equal(medvision.read_mask(tmp_path / "mask.png"), (grey > 5).astype(np.uint8))
    assert np.array_equal(medvision.read_mask(tmp_path / "grey.png", num_classes=12), grey)
    with pytest.raises(MedvisionError, match="set color_map to the colour of each class"):
        medvision.read_mask(tmp_path / "colour.png", num_classes=3)
    with pytest.raises(MedvisionError, match=r"no such file|not found|does not exist|No such file"):
        medvision.read_image(tmp_path / "none.png")


def test_an_audit_is_returned_and_written_where_asked(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 255, (32, 32), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    found = medvision.audit_dataset(tmp_path / "set", out=tmp_path / "out")
    assert found.exit_code == 1  # the same three images have both classes
    assert len(found.to_dict()["label_conflicts"]) == 3
    written = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert written["label_conflicts"] == found.to_dict()["label_conflicts"]


def test_mistakes_in_a_training_are_raised_and_the_process_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = list(sys.argv)
    for overrides, message in (
        (("loss=bcee",), "unknown loss bcee (loss=bcee); did you mean bce?"),
        (("data.root=none",), "none does not exist (data.root)"),
        (("data.root=",), "data.root is empty (data.root); give the folder"),
        (({"data.root": "set"},), "expected overrides as texts, got dict (train); write each"),
        (("-m", "seed=1,2"), "expected the overrides of one run"),
        (("sweep=tpe",), "expected the overrides of one run"),
    ):
        with pytest.raises(MedvisionError) as raised:
            medvision.train("polyp_unet", *SMALL, *overrides)
        assert str(raised.value).startswith(message)
    assert sys.argv == argv
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("scaled", [True, False])
def test_a_checkpoint_of_a_plain_trainer_predicts_files_as_it_predicts_tensors(
    tmp_path: Path, scaled: bool
) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 1))
        return plain if scaled else Bytes(plain)

    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    images = images.float() / 255 if scaled else images
    data = [(image, (torch.arange(256).reshape(16, 16) % 2)) for image in images]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, **quiet)
    task = SegmentationTask(model=network())
    loader = DataLoader(data, batch_size=2)
    trainer.fit(task, loader, loader)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    model = medvision.load_model(tmp_path / "own.ckpt", model=network())
    with torch.no_grad():
        expected = task(images[:1]).sigmoid()[0, 0].numpy()
    result = model.predict(tmp_path / "a.png")
    assert result.probability == pytest.approx(expected, abs=2e-2)  # bfloat16 on some processors
    assert result.mask.shape == (16, 16)
    with pytest.raises(MedvisionError, match="have not trusted"):
        medvision.load_model(tmp_path / "own.ckpt")


class Bytes(nn.Module):
    """A network that takes uint8 images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image.float() / 128 - 1)


@pytest.mark.slow
def test_a_script_trains_evaluates_compares_and_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [medvision.train("chest_xray_cnn", *SMALL, f"seed={seed}") for seed in (0, 1)]
    summary = json.loads((runs[0] / "summary.json").read_text())
    again = medvision.evaluate(runs[0], out=tmp_path / "again")
    assert again["metrics"]["test/auroc"] == summary["metrics"]["test/auroc"]
    compared = medvision.compare(runs, out=tmp_path / "compared")
    assert [group.size for group in compared.groups] == ["2 seeds"]
    config = torch.load(runs[0] / "checkpoints" / "best.ckpt", weights_only=True)["medvision"]
    network = SimpleCNN(**config["model"]["arguments"])
    own = ClassificationTask.load_from_checkpoint(
        runs[0] / "checkpoints" / "best.ckpt", model=network, weights_only=True
    )
    model = medvision.load_model(runs[0])
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    with torch.no_grad():
        probability = own.eval()(torch.from_numpy(pixels)[None, None]).sigmoid().item()
    found = model.predict(pixels).probability["PNEUMONIA"]
    assert found == pytest.approx(probability, abs=2e-2)
