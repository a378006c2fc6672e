"""Typical mistakes end in one line on stderr and exit code 2, and leave no files."""

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from medvision.errors import MedvisionError
from medvision.run import main
from medvision.run.config.hydra_errors import _MEANT, check_usage, quote_text
from medvision.run.config.store import CONF, keys_of, options

SMALL = (
    "trainer=cpu",
    "logger=csv",
    "data.image_size=32",
    "data.num_workers=0",
    "data.batch_size=4",
)


@pytest.fixture
def fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run the program with a mistake; check exit code and files, and return the error line."""
    workplace = tmp_path / "workplace"
    workplace.mkdir()
    monkeypatch.chdir(workplace)

    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        captured = capfd.readouterr()
        assert captured.out == ""
        assert captured.err.endswith("\n")
        assert captured.err.count("\n") == 1
        assert list(workplace.iterdir()) == []
        return captured.err.rstrip("\n")

    return run


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["experiment=polyp_unte"],
            "error: unknown experiment polyp_unte (experiment=polyp_unte);"
            " did you mean polyp_unet?",
        ),
        (
            ["experiment=polyp_unet", "data.rot=/x"],
            "error: unknown config key data.rot (data.rot=/x); did you mean data.root?",
        ),
        (
            ["experiment=polyp_unet", "lr=1e-3"],
            "error: unknown config key lr (lr=1e-3); did you mean optimizer.lr?",
        ),
        (
            ["experiment=polyp_unet", "learning_rate=1e-3"],
            "error: unknown config key learning_rate (learning_rate=1e-3);"
            " did you mean optimizer.lr?",
        ),
        (
            ["experiment=polyp_unet", "epochs=3"],
            "error: unknown config key epochs (epochs=3); did you mean trainer.max_epochs?",
        ),
        (
            ["experiment=polyp_unet", "model=unett"],
            "error: unknown model unett (model=unett); did you mean unet?",
        ),
        (
            ["experiment=chest_xray_cnn", "model=resnet50"],
            "error: unknown model resnet50 (model=resnet50);"
            " use model=timm_classifier model.name=resnet50",
        ),
        (
            ["experiment=polyp_unet", "model=resnet50.a1_in1k", "model.base_channels=4"],
            "error: unknown model resnet50.a1_in1k (model=resnet50.a1_in1k);"
            " use model=smp_unet model.encoder=resnet50",
        ),
        (
            ["experiment=polyp_unet", "model=convnext_tiny"],
            "error: unknown model convnext_tiny (model=convnext_tiny);"
            " use model=smp_unet model.encoder=tu-convnext_tiny",
        ),
        (
            ["experiment=chest_xray_cnn", "model=alexnt"],
            "error: unknown model alexnt (model=alexnt); did you mean alexnet?",
        ),
        (
            ["experiment=polyp_unet", "data.root=/nowhere"],
            "error: /nowhere does not exist (data.root);"
            " give the folder of your data set, or leave data.root out for phantoms",
        ),
        (
            ["experiment=polyp_unet", "data.image_size=0"],
            "error: expected an integer from 16 to 8192, got 0 (data.image_size); change it",
        ),
        (
            ["experiment=polyp_unet", "data.batch_size=-8"],
            "error: expected an integer of at least 1, got -8 (data.batch_size); change it",
        ),
        (
            ["experiment=polyp_unet", "optimizer.lr=fast"],
            "error: expected a number above 0, got fast (optimizer.lr); change it",
        ),
        (
            ["experiment=polyp_unet", "scheduler=plateau", "scheduler.factor=1"],
            "error: expected a number above 0 and below 1, got 1 (scheduler.factor); change it",
        ),
        (
            ["experiment=polyp_unet", "trainer.max_steps=many"],
            "error: expected an integer of at least 1, or -1, got many (trainer.max_steps);"
            " change it",
        ),
        (
            ["experiment=polyp_unet", "trainer.max_steps=0"],
            "error: expected an integer of at least 1, or -1, got 0 (trainer.max_steps); change it",
        ),
        (
            ["experiment=polyp_unet", "trainer.limit_train_batches=0"],
            "error: expected a number of batches of at least 1, or a fraction above 0.0 and up to"
            " 1.0, got 0 (trainer.limit_train_batches); change it",
        ),
        (
            ["experiment=polyp_unet", "trainer.limit_val_batches=0.001"],
            "error: 0.001 of 19 batches is less than one batch (trainer.limit_val_batches);"
            " give a number of batches, such as 1, or a larger fraction",
        ),
        (
            ["experiment=polyp_unet", "data.num_workers=100000"],
            "error: expected an integer from 0 to 256, got 100000 (data.num_workers); change it",
        ),
        (
            ["experiment=polyp_unet", "data.batch_size=[4,8]"],
            "error: expected an integer of at least 1, got [4, 8] (data.batch_size); change it",
        ),
        (
            ["experiment=polyp_unet", "data.batch_size=null"],
            "error: expected an integer of at least 1, got None (data.batch_size); change it",
        ),
        (
            ["experiment=polyp_unet", "optimizer.lr=.nan"],
            "error: expected a number above 0, got .nan (optimizer.lr); change it",
        ),
        (
            ["experiment=polyp_unet", "data.val_fraction=0.6", "data.test_fraction=0.6"],
            "error: expected non-negative fractions with a sum below 1, got val 0.6 and test 0.6"
            " (data.val_fraction, data.test_fraction); the default is 0.1 each",
        ),
        (
            ["experiment=chest_xray_cnn", "data.protocol=kfold", "data.folds=3", "data.fold=3"],
            "error: expected a fold from 0 to 2, got 3 (data.fold); data.folds is 3",
        ),
        (
            ["experiment=polyp_unet", "model.batch_norm=yes_please"],
            "error: expected one of True, False, got yes_please (model.batch_norm); change it",
        ),
        (
            ["experiment=polyp_unet", "data.mask_suffix=1"],
            "error: expected a string, got 1 (data.mask_suffix); change it",
        ),
        (
            ["experiment=polyp_unet", "optimizer._target_=torch.optim.Admw"],
            "error: torch.optim has no Admw (optimizer._target_); did you mean AdamW?",
        ),
        (
            ["experiment=polyp_unet", "checkpoint.monitor=test/dice"],
            "error: test/dice must not be used to choose the checkpoint: nothing is selected on"
            " the test set"
            " (checkpoint.monitor); use val/dice",
        ),
        (
            ["experiment=chest_xray_cnn", "checkpoint.monitor=test/auroc"],
            "error: test/auroc must not be used to choose the checkpoint: nothing is selected on"
            " the test set"
            " (checkpoint.monitor); use val/auroc",
        ),
        (
            ["experiment=chest_xray_cnn", "data.in_channels=4"],
            "error: expected one of 1, 3, got 4 (data.in_channels); change it",
        ),
        (
            ["experiment=brain_mri_cnn", "data.protocol=mergd"],
            "error: expected one of official, merged, grouped, kfold, got mergd (data.protocol);"
            " change it",
        ),
        (
            ["experiment=chest_xray_cnn", "task.threshold=best"],
            "error: expected a number above 0 and below 1, or one of validation, youden,"
            " sensitivity, got best (task.threshold); change it",
        ),
        (
            ["experiment=chest_xray_cnn", "++task.sensitivity=1.0"],
            "error: expected a number above 0 and below 1, or null, got 1.0 (task.sensitivity);"
            " change it",
        ),
        (
            ["experiment=chest_xray_cnn", "++task.prevalence=rare"],
            "error: expected a number above 0 and below 1, or null, got rare (task.prevalence);"
            " change it",
        ),
        (
            ["experiment=chest_xray_cnn", "audit=off"],
            "error: expected one of warn, strict, skip, got off (audit); change it",
        ),
        (
            ["experiment=brain_mri_cnn", "data.fold=1"],
            "error: fold 1 is requested, but the protocol official has no folds (data.fold);"
            " add data.protocol=kfold",
        ),
        (
            ["experiment=polyp_unet", "checkpoint.monitor=test_dice"],
            "error: test_dice must not be used to choose the checkpoint: nothing is selected on"
            " the test set"
            " (checkpoint.monitor); use val/dice",
        ),
        (
            ["experiment=polyp_unet", "checkpoint.monitor=Test/Dice"],
            "error: Test/Dice must not be used to choose the checkpoint: nothing is selected on"
            " the test set"
            " (checkpoint.monitor); use val/Dice",
        ),
        (
            ["experiment=polyp_unet", "scheduler=plateau", "scheduler.monitor=test/loss"],
            "error: test/loss must not be used for a decision: nothing is selected on the test set"
            " (scheduler.monitor); use val/loss",
        ),
        (
            [
                "experiment=polyp_unet",
                "callbacks=early_stopping",
                "callbacks.early_stopping.monitor=TEST_iou",
            ],
            "error: TEST_iou must not be used for a decision: nothing is selected on the test set"
            " (callbacks.early_stopping.monitor); use val/iou",
        ),
        (
            ["experiment=polyp_unet", "+task.score={objectives: [val/loss, test-dice]}"],
            "error: test-dice must not be used for a decision: nothing is selected on the test set"
            " (task.score.objectives); use val/dice",
        ),
        (
            ["experiment=polyp_unet", "+note=test/iou", "+my_metric=${note}"],
            "error: test/iou must not be used for a decision: nothing is selected on the test set"
            " (my_metric); use val/iou",
        ),
        (
            ["experiment=polyp_unet", "scheduler=plateau", "scheduler.monitor=val_loss"],
            "error: unknown score val_loss for this task (scheduler.monitor); did you mean"
            " val/loss?",
        ),
        (
            [
                "experiment=polyp_unet",
                "callbacks=early_stopping",
                "callbacks.early_stopping.monitor=val/dise",
            ],
            "error: unknown score val/dise for this task (callbacks.early_stopping.monitor); did"
            " you mean val/dice?",
        ),
        (
            ["experiment=polyp_unet", "checkpoint.mode=min"],
            "error: checkpoint.mode=min contradicts val/dice, of which larger values are better"
            " (checkpoint.mode); leave it out",
        ),
        (
            ["experiment=polyp_unet", "scheduler=plateau", "trainer.limit_val_batches=0"],
            "error: val/loss is not measured, because the run has no validation images"
            " (scheduler.monitor); monitor train/loss, or leave out scheduler",
        ),
        (
            ["experiment=polyp_unet", "hydra.run.dir=elsewhere"],
            "error: Hydra does not choose the folder of a run here (hydra.run.dir); set"
            " run_dir=FOLDER, or leave it out for runs/<experiment>/<time>",
        ),
        (
            [
                "experiment=polyp_unet",
                "model=smp_unet",
                "model.architecture=DeepLabV3Plus",
                "model.encoder=resnet18",
                "data.batch_size=1",
                "data.image_size=32",
                "data.num_images=12",
            ],
            "error: DeepLabV3Plus with encoder resnet18 cannot be trained on an image"
            " (1, 3, 32, 32): Expected more than 1 value per channel when training, got input size"
            " torch.Size([1, 256, 1, 1]) (data.batch_size); use data.batch_size=2 or more, and as"
            " many training images",
        ),
        (
            ["experiment=polyp_unet", "ckpt_path=no.ckpt"],
            "error: no.ckpt is not a file (ckpt_path); check the path",
        ),
        (
            ["experiment=polyp_unet", "seed"],
            "error: expected key=value, got seed (command line); write seed=VALUE",
        ),
        (
            ["polyp_unte"],
            "error: expected key=value, got polyp_unte (command line); write experiment=polyp_unet",
        ),
        (
            ["polyps.png"],
            "error: expected key=value, got polyps.png (command line); see python train.py --help",
        ),
        (
            ["--experiment", "polyp_unet"],
            "error: expected key=value, got --experiment polyp_unet (command line);"
            " write experiment=polyp_unet",
        ),
        (
            ["experiment=polyp_unet", "--data.root=a b"],
            "error: expected key=value, got --data.root=a b (command line); write data.root='a b'",
        ),
        (
            ["--epochs", "3"],
            "error: expected key=value, got --epochs 3 (command line); write trainer.max_epochs=3",
        ),
        (
            ["--batch-size=4"],
            "error: expected key=value, got --batch-size=4 (command line); write data.batch_size=4",
        ),
        (
            ["--data", "mine"],
            "error: expected key=value, got --data mine (command line); write data.root=mine",
        ),
        (
            ["--gpu", "experiment=segmentation"],
            "error: expected key=value, got --gpu (command line); write trainer=gpu",
        ),
        (
            ["--lr"],
            "error: expected key=value, got --lr (command line); write optimizer.lr=VALUE",
        ),
        (
            ["--experimnt", "polyp_unet"],
            "error: unrecognized arguments: --experimnt (command line); see python train.py --help",
        ),
        (
            [],
            "error: no experiment is chosen (experiment);"
            " add experiment=segmentation or experiment=classification for a folder of your own, or"
            f" experiment=NAME: {', '.join(options('experiment'))}",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_line_names_the_error_and_the_fix(
    fails: Callable[..., str], arguments: list[str], line: str
) -> None:
    assert fails(*arguments) == line


@pytest.mark.parametrize("option", _MEANT)
def test_an_option_of_another_program_leads_to_keys_that_exist(option: str) -> None:
    known = {
        "": yaml.safe_load((CONF / "train.yaml").read_text()),
        "data": keys_of("data", "folder_segmentation"),
        "optimizer": keys_of("optimizer", "adam"),
        "trainer": keys_of("trainer", "auto"),
    }
    with pytest.raises(MedvisionError) as failed:
        check_usage([option, "2"])
    assert failed.value.what == f"expected key=value, got {option} 2"
    hint = str(failed.value.hint)
    assert hint.startswith("write ")
    for key, value in re.findall(r"([\w.]+)=(\w+)", hint):
        group, _, name = key.rpartition(".")
        assert value in options("trainer") if key == "trainer" else name in known[group]


def test_options_may_stand_between_overrides() -> None:
    typed = ["experiment=a", "--config-dir", "conf", "seed=1,2", "-m"]
    overrides = ["experiment=a", "seed=1,2"]
    assert check_usage(typed) == (True, overrides, [*overrides, "--config-dir", "conf", "-m"])
    for typed in (["-m", *overrides], [*overrides, "--config-dir=conf"], overrides, []):
        assert check_usage(typed)[2] == typed


def test_an_override_that_cannot_be_read(fails: Callable[..., str]) -> None:
    line = fails("experiment=polyp_unet", "data root=a")
    assert line.startswith("error: cannot read an override (data root=")


@pytest.mark.parametrize("name", ["Größe", "a b", "it's", "a(b)", "[a", "x\\", "日本", "$a"])
def test_a_path_may_hold_any_character(fails: Callable[..., str], name: str) -> None:
    line = fails("experiment=polyp_unet", f"data.root=/nowhere/{name}")
    assert line.startswith(f"error: /nowhere/{name} does not exist (data.root); ")


def test_a_sweep_without_its_flag(fails: Callable[..., str]) -> None:
    assert fails("experiment=polyp_unet", "seed=0,1") == (
        "error: the comma separates several values (seed=0,1);"
        " add -m to run each of them, or quote the value"
    )


def test_a_root_without_masks(fails: Callable[..., str], make_folder: Callable[..., Path]) -> None:
    root = make_folder()
    for mask in (root / "masks").iterdir():
        mask.unlink()
    (root / "masks").rmdir()
    line = fails(*SMALL, "experiment=polyp_unet", f"data.root={root}")
    assert "masks" in line
    assert str(root) in line


def test_an_empty_root(fails: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    line = fails(*SMALL, "experiment=polyp_unet", f"data.root={tmp_path / 'empty'}")
    assert "images" in line


def test_one_truncated_image(fails: Callable[..., str], make_folder: Callable[..., Path]) -> None:
    root = make_folder()
    path = root / "images" / "case_03.png"
    path.write_bytes(path.read_bytes()[:700])
    line = fails(*SMALL, "experiment=polyp_unet", f"data.root={root}")
    assert "case_03.png" in line
    assert "truncated" in line


def test_one_mask_of_another_size(
    fails: Callable[..., str], make_folder: Callable[..., Path]
) -> None:
    root = make_folder()
    cv2.imwrite(str(root / "masks" / "case_05.png"), np.zeros((20, 20), np.uint8))
    line = fails(*SMALL, "experiment=polyp_unet", f"data.root={root}")
    assert "images/case_05.png" in line
    assert "masks/case_05.png" in line
    assert re.search(r"\b48\b.*\b40\b|\b40\b.*\b48\b", line)
    assert re.search(r"20\D+20", line)


def test_no_space_for_a_split(fails: Callable[..., str], make_folder: Callable[..., Path]) -> None:
    line = fails(*SMALL, "experiment=polyp_unet", f"data.root={make_folder(2)}")
    assert "too few groups for a split" in line


def test_an_unknown_encoder(fails: Callable[..., str]) -> None:
    line = fails(
        *SMALL, "experiment=polyp_unet_lite0", "model.weights=none", "model.encoder=resnt34"
    )
    assert "resnt34" in line
    assert "model.encoder" in line
    assert "resnet34" in line


def test_a_checkpoint_of_another_model(fails: Callable[..., str], finished: Path) -> None:
    checkpoint = finished / "checkpoints" / "last.ckpt"
    line = fails(
        *SMALL, "experiment=polyp_unet", "model.base_channels=8", f"ckpt_path={checkpoint}"
    )
    assert f"ckpt_path={checkpoint}" in line


def test_a_checkpoint_that_contains_code(fails: Callable[..., str], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "bad.ckpt"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(trace).encode() + b"'\ntR.")
    line = fails(*SMALL, "experiment=polyp_unet", f"ckpt_path={path}")
    assert "expected a checkpoint that can be read safely" in line
    assert not trace.exists()


def test_a_transform_that_does_not_exist(fails: Callable[..., str]) -> None:
    line = fails(*SMALL, "experiment=polyp_unet", "+data.train_transforms.HorizontalFlop={p: 1}")
    assert line == (
        "error: unknown albumentations transform HorizontalFlop"
        " (data.train_transforms.HorizontalFlop); did you mean HorizontalFlip?"
    )


def test_a_random_transform_of_test_images(fails: Callable[..., str]) -> None:
    line = fails(*SMALL, "experiment=polyp_unet", "+data.eval_transforms.RandomRotate90={}")
    assert line == (
        "error: expected deterministic transforms of validation and test images, got a random one"
        " (data.eval_transforms);"
        " keep random transforms in data.train_transforms"
    )


def test_a_transform_that_moves_the_pixels_of_test_images(fails: Callable[..., str]) -> None:
    line = fails(*SMALL, "experiment=polyp_unet", "+data.eval_transforms.VerticalFlip={}")
    assert line == (
        "error: expected transforms of validation and test images that keep pixels in place"
        " (data.eval_transforms);"
        " masks would not match their files: move the others to data.train_transforms"
    )


CHEST = (*SMALL, "experiment=chest_xray_cnn", "model.base_channels=2")


def test_an_empty_class_folder(
    fails: Callable[..., str], make_class_folder: Callable[..., Path]
) -> None:
    root = make_class_folder({"NORMAL": 6, "PNEUMONIA": 0})
    line = fails(*CHEST, f"data.root={root}")
    assert f"no images in the folder ({root}/PNEUMONIA)" in line


def test_one_class_only(fails: Callable[..., str], make_class_folder: Callable[..., Path]) -> None:
    root = make_class_folder({"NORMAL": 6})
    line = fails(*CHEST, f"data.root={root}")
    assert line.startswith(f"error: expected at least 2 classes, found only NORMAL ({root}); ")


def test_a_file_that_is_not_an_image(
    fails: Callable[..., str], make_class_folder: Callable[..., Path]
) -> None:
    root = make_class_folder({"NORMAL": 6, "PNEUMONIA": 6})
    (root / "NORMAL" / "notes.jpg").write_text("not an image")
    line = fails(*CHEST, f"data.root={root}")
    assert f"{root}/NORMAL/notes.jpg" in line


def test_a_test_class_unknown_in_train(
    fails: Callable[..., str], make_class_folder: Callable[..., Path]
) -> None:
    root = make_class_folder({"train/a": 6, "train/b": 6, "test/a": 4, "test/c": 4})
    line = fails(*CHEST, f"data.root={root}")
    assert line.startswith("error: test has the class c, but train does not (")


def test_a_model_with_other_channels_than_the_data(fails: Callable[..., str]) -> None:
    assert fails(*CHEST, "model.in_channels=3") == (
        "error: the model expects images with 3 channels, the data has 1 (model.in_channels);"
        " leave it out and set data.in_channels"
    )


def test_weights_of_another_architecture(fails: Callable[..., str], finished: Path) -> None:
    weights = finished / "checkpoints" / "best.ckpt"
    line = fails(*SMALL, "experiment=brain_mri_lite0", f"model.weights={weights}")
    assert "weights of a different architecture" in line
    assert str(weights) in line


def test_a_task_that_does_not_fit_the_data(fails: Callable[..., str]) -> None:
    assert fails(*SMALL, "experiment=brain_mri_cnn", "data=polyps") == (
        "error: ClassificationTask expects classification data, got segmentation data (task, data);"
        " start from an experiment with task=segmentation"
    )


def test_a_score_that_the_task_does_not_have(fails: Callable[..., str]) -> None:
    assert fails(*CHEST, "checkpoint.monitor=val/dice") == (
        "error: unknown score val/dice for this task (checkpoint.monitor); did you mean val/ece?"
    )


def test_a_region_loss_for_images_of_one_class(fails: Callable[..., str]) -> None:
    line = fails(*CHEST, "loss=dice")
    assert "use loss=bce or loss=focal" in line


def test_a_threshold_for_four_classes(fails: Callable[..., str]) -> None:
    arguments = ("experiment=brain_mri_cnn", "model.base_channels=2", "task.threshold=validation")
    assert fails(*SMALL, *arguments) == (
        "error: choosing a threshold requires two classes, got 4 (task.threshold); leave it at 0.5"
    )


@pytest.mark.parametrize("protocol", ["merged", "kfold"])
def test_a_given_split_with_a_protocol_that_draws_one(
    fails: Callable[..., str],
    make_class_folder: Callable[..., Path],
    tmp_path: Path,
    protocol: str,
) -> None:
    root = make_class_folder({"a": 6, "b": 6})
    (tmp_path / "kept.csv").write_text("path,split\na/case_00.png,train\n")
    kept = f"data.splits={tmp_path / 'kept.csv'}"
    line = fails(*CHEST, f"data.root={root}", kept, f"data.protocol={protocol}")
    assert line == (
        f"error: the protocol {protocol} draws its own split, but a split is given (data.splits);"
        " remove data.splits or data.protocol"
    )


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("data.class_names=[Hintergrund, Läsion]", ["Hintergrund", "Läsion"]),
        ("data.class_names=[gutartig (klein),bösartig]", ["gutartig (klein)", "bösartig"]),
        ("data.class_names=[it's,ü]", ["it's", "ü"]),
        ("data.root=/data/Fälle [neu]", "/data/Fälle [neu]"),
        ("data.root=[é", "[é"),
        ("data.class_names=[1,ü]", "[1,ü]"),  # not only texts: nothing is guessed
    ],
)
def test_values_that_the_grammar_of_hydra_cannot_read_are_quoted(typed: str, value: object) -> None:
    assert OverridesParser.create().parse_override(quote_text(typed)).value() == value
