"""Classes of libraries that a file may name: never a function, a file, an address or a download."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medvision import libraries
from medvision.errors import MedvisionError
from medvision.libraries import find_place, nothing_opened, switched_off
from medvision.registry import Purpose, build_network, check_classes, may_build


@pytest.mark.parametrize(
    "name",
    [
        "segmentation_models_pytorch.Segformer",
        "torchvision.models.AlexNet",
        "torch.nn.Conv2d",
        "timm.create_model",
    ],
)
def test_networks_of_libraries_are_rebuilt_without_trust(name: str) -> None:
    assert may_build(name, Purpose.PREDICT, part="model")
    assert not may_build(name, Purpose.RESUME, part="callbacks")


@pytest.mark.parametrize(
    "name",
    [
        "torchvision.models.resnet18",  # functions
        "torchvision.models.get_model",
        "timm.models.load_checkpoint",
        "timm.create_model_from_pretrained",
        "segmentation_models_pytorch.create_model",
        "segmentation_models_pytorch.from_pretrained",
        "torch.nn.utils.parametrize.register_parametrization",
        "torchvision.models.ResNet18_Weights",  # classes of another kind
        "torchvision.models.WeightsEnum",
        "torch.nn.Parameter",
        "torchvision.models.os",
        "segmentation_models_pytorch.Warning",
        "segmentation_models_pytorch.encoders.TimmUniversalEncoder",
        "torch.nn.Missing",
    ],
)
def test_neither_functions_nor_other_classes_of_libraries_are_built(name: str) -> None:
    assert not may_build(name, Purpose.RESUME_OWN)


@pytest.mark.slow
def test_neither_functions_nor_other_classes_of_monai_are_built() -> None:
    for name in (
        "monai.networks.nets.resnet18",
        "monai.networks.nets.drop_connect",
        "monai.networks.nets.monai",
        "monai.networks.nets.UNet.forward",
        "monai.losses.LossReduction",
        "monai.bundle.load",
        "monai.utils.module.optional_import",
        "monai.networks.utils.copy_model_state",
        "monai.apps.utils.download_url",
    ):
        assert not may_build(name, Purpose.RESUME_OWN), name
    assert may_build("monai.networks.nets.BasicUNet", Purpose.PREDICT)
    assert may_build("monai.losses.DiceCELoss", Purpose.EVALUATE)


def test_arguments_that_name_files_addresses_or_pretrained_weights_are_switched_off() -> None:
    smp = "segmentation_models_pytorch.Unet"
    assert switched_off(smp, {"encoder_name": "resnet18", "classes": 2}) == {
        "encoder_name": "resnet18",
        "classes": 2,
        "encoder_weights": None,  # the default downloads
    }
    assert switched_off(smp, {"encoder_weights": "imagenet"}) == {"encoder_weights": None}
    given = {
        "model_name": "resnet18",
        "pretrained": 1,
        "pretrained_cfg_overlay": {"file": "/etc/passwd"},
        "checkpoint_path": "/etc/passwd",
        "cache_dir": "/tmp",
        "drop_path_rate": 0.1,
        "args": {"url": "http://x", "width": 3},
    }
    assert switched_off("timm.create_model", given) == {
        "model_name": "resnet18",
        "drop_path_rate": 0.1,
        "args": {"width": 3},
    }
    weighted = {"class_weights": [1.0, 2.0], "init_weights": None}
    assert switched_off("torchvision.models.AlexNet", weighted) == weighted


@pytest.mark.parametrize(
    "text", ["hf-hub:someone/net", "local-dir:/tmp/net", "/etc/passwd", "..\\x", "~/x", ".hidden"]
)
def test_text_that_may_name_a_file_or_an_address_is_refused(text: str) -> None:
    node = {"_target_": "timm.create_model", "model_name": text}
    with pytest.raises(MedvisionError, match="which may name a file or an address") as error:
        check_classes({"model": node}, Purpose.PREDICT, where="run", hint="none")
    assert error.value.hint == "none"  # it is not suggested to trust timm
    nested = {"_target_": "torch.nn.Conv2d", "deep": [{"deeper": text}]}
    with pytest.raises(MedvisionError, match="which may name a file or an address"):
        check_classes({"model": nested}, Purpose.PREDICT, where="run", hint="none")


def test_options_of_networks_are_not_mistaken_for_files() -> None:
    for value in ("tu-resnet18.a1_in1k", "swish", ["LeakyReLU", {"slope": 0.1}], None, 3, "same"):
        assert find_place(value) is None


def _connect() -> None:
    socket.create_connection(("127.0.0.1", 9), timeout=0.1)


ATTEMPTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "read": (lambda file: file.read_text(), "opens"),
    "write": (lambda file: file.with_name("new").write_text("x"), "opens"),
    "load": (lambda file: torch.load(file, weights_only=False), "opens"),
    "remove": (lambda file: file.unlink(), "changes"),
    "rename": (lambda file: file.rename(file.with_name("__pycache__")), "changes"),
    "connect": (lambda _: _connect(), "calls socket"),
    "run": (lambda _: subprocess.run([sys.executable, "-V"], check=True), "calls subprocess"),
    "hub": (lambda _: torch.hub.load("nobody/nothing", "x", trust_repo=True), ""),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_what_is_built_can_open_and_contact_nothing(attempt: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("secret")
    act, words = ATTEMPTS[attempt]
    with (
        pytest.raises(MedvisionError, match=f"some.Net {words}.* while it is built"),
        nothing_opened("some.Net", where="best.ckpt"),
    ):
        act(file)
    assert sorted(tmp_path.iterdir()) == [file]
    assert file.read_text() == "secret"  # outside of the block everything is as before


def test_what_is_built_may_import_and_compile_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "later_part.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    machine = Path("/proc/sys/kernel/random/boot_id")
    with nothing_opened("some.Net", where="best.ckpt"):
        if machine.exists():
            assert machine.read_text()
        import later_part  # type: ignore[import-not-found]
    assert later_part.value == 3
    assert list((tmp_path / "__pycache__").iterdir())


def test_a_network_of_a_library_is_rebuilt_with_its_weights_switched_off() -> None:
    arguments = {"encoder_name": "resnet18", "encoder_weights": "imagenet", "classes": 2}
    network = build_network("segmentation_models_pytorch.Unet", arguments, where="best.ckpt")
    assert type(network).__name__ == "Unet"


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        (
            "segmentation_models_pytorch.Unet",
            {"decoder_channels": {"_target_": "os.system", "command": "x"}},
            "names os.system",
        ),
        ("torch.nn.Sequential", {"_args_": [3]}, "sets _args_ of torch.nn.Sequential"),
        ("torch.nn.Linear", {"_partial_": True}, "sets _partial_ of torch.nn.Linear"),
        ("timm.create_model", {"model_name": "no_such_net"}, "cannot be built"),
        ("torch.nn.Linear", {"no": 1}, "cannot be built"),
    ],
)
def test_a_hostile_network_of_a_library_is_one_line(
    name: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(MedvisionError, match=words):
        build_network(name, arguments, where="best.ckpt")


@pytest.mark.slow
def test_networks_of_monai_that_fetch_whatever_the_arguments_are_refused() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(MedvisionError, match=r"while it is built|cannot be built"):
        build_network(
            "monai.networks.nets.Transchex",
            {
                "in_channels": 3,
                "img_size": [32, 32],
                "patch_size": [16, 16],
                "num_classes": 2,
                "num_language_layers": 1,
                "num_vision_layers": 1,
                "num_mixed_layers": 1,
            },
            where="best.ckpt",
        )


def test_the_lists_import_nothing_until_a_name_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise AssertionError(f"imported {name}")

    monkeypatch.setattr(libraries, "_imported", fail)
    for name in ("os.system", "monai.bundle.load", "medvision.models.UNet", "my_package.Net"):
        libraries.is_of_library(name)
