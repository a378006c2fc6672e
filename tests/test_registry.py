"""Classes that may be built because a file names them."""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, packages_distributions, requires
from pathlib import Path

import pytest

from medvision import libraries, registry
from medvision.errors import MedvisionError
from medvision.registry import Purpose, check_classes, may_build, trust


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("medvision.models.UNet", Purpose.PREDICT),
        ("medvision.models.BatchMixing", Purpose.EVALUATE),
        ("medvision.data.SegmentationData", Purpose.EVALUATE),
        ("segmentation_models_pytorch.losses.DiceLoss", Purpose.EVALUATE),
        ("torch.nn.BCEWithLogitsLoss", Purpose.PREDICT),
        ("pytorch_lightning.Trainer", Purpose.EVALUATE),
        ("torch.optim.AdamW", Purpose.RESUME),
        ("pytorch_lightning.callbacks.EarlyStopping", Purpose.RESUME),
        ("medvision.callbacks.BestAndLast", Purpose.RESUME),
        ("medvision.tasks.schedules.constant", Purpose.RESUME),
        ("os.system", None),
        ("torch.nn.Linear", Purpose.PREDICT),
        ("torch.nn.init", None),
        ("torch.nn.functional.relu", None),
        ("torch.hub.load", None),
        ("torch.optim.lr_scheduler.LambdaLR", None),
        ("medvision.models.unet.UNet", None),
        ("medvision.models.UNet.forward", None),
        ("medvision.models.UNet\n", None),
        ("xmedvision.models.UNet", None),
        ("my_package.Net", None),
    ],
)
def test_a_class_is_allowed_from_its_purpose_on(name: str, first: Purpose | None) -> None:
    allowed = [purpose for purpose in Purpose if may_build(name, purpose)]
    assert allowed == [purpose for purpose in Purpose if first is not None and purpose >= first]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that defines a class, imports another one, and shows that it was imported."""
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from os import system\nfrom pathlib import Path\n"
        "from own_package.parts import Net\nPath(__file__).with_name('imported').touch()\n"
    )
    (package / "parts.py").write_text("class Net: ...\nLIMIT = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_TRUSTED", set())
    yield package
    for name in ("own_package", "own_package.parts"):
        sys.modules.pop(name, None)


def test_a_trusted_package_allows_only_its_own_definitions(own: Path) -> None:
    names = ["own_package.Net", "own_package.parts.Net"]
    assert not any(may_build(name, Purpose.RESUME) for name in names)
    assert not (own / "imported").exists()
    trust(["own_package"])
    assert (own / "imported").exists()
    assert all(may_build(name, Purpose.PREDICT) for name in names)
    for name in (
        "own_package.system",
        "own_package.Path",
        "own_package.parts",
        "own_package.parts.LIMIT",
        "own_package.Net.mro",
        "own_package.missing.Net",
        "own_packages.Net",
        "os.system",
    ):
        assert not may_build(name, Purpose.RESUME)


def test_an_installed_package_may_register_itself(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [
        EntryPoint(name="a", value=value, group=registry.ENTRY_POINTS)
        for value in ("own_package", "os", "medvision", "torch.hub")
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry._registered.cache_clear()
    try:
        assert may_build("own_package.Net", Purpose.PREDICT)
        for name in ("own_package.system", "os.system", "medvision.files.Path", "torch.hub.load"):
            assert not may_build(name, Purpose.RESUME_OWN)
    finally:
        registry._registered.cache_clear()


def test_a_trusted_library_allows_its_components_but_no_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_TRUSTED", set())
    trust(["torch", "pytorch_lightning", "torchvision"])
    for name in ("torch.nn.LSTM", "torch.optim.SGD", "pytorch_lightning.callbacks.Timer"):
        assert may_build(name, Purpose.RESUME)
    for name in (
        "torch.hub.load",
        "torch.load",
        "torch.utils.cpp_extension.load",
        "torch.utils.data.DataLoader",
        "torchvision.models.resnet18",
        "torchvision.datasets.MNIST",
    ):
        assert not may_build(name, Purpose.RESUME_OWN)


def test_every_dependency_is_known_as_a_library() -> None:
    """Otherwise a user who trusts one would let a file call its functions."""
    known = {name.lower() for name in libraries.INSTALLED}
    modules = packages_distributions()
    needed = {
        re.split(r"[^\w.-]", text)[0].lower().replace("_", "-")
        for text in requires("medvision-lightning") or ()
        if "extra" not in text
    }
    missing = {
        module
        for module, distributions in modules.items()
        if needed & {d.lower().replace("_", "-") for d in distributions}
        and module.lower() not in known
        and module.isidentifier()
    }
    assert needed
    assert missing <= {"medvision", "tests"}, missing


@pytest.mark.parametrize(
    ("package", "why"),
    [
        ("os", "os is part of Python, whose functions a file must not call"),
        ("importlib.util", "importlib.util is part of Python"),
        ("no_such_package", "no_such_package cannot be imported: No module named"),
        ("a-b", "a-b is not the name of a package"),
        ("", " is not the name of a package"),
    ],
)
def test_a_package_that_cannot_be_trusted_is_refused_with_the_reason(
    package: str, why: str
) -> None:
    with pytest.raises(MedvisionError) as error:
        trust([package])
    assert error.value.what.startswith(why)
    assert error.value.where == "trust"


def test_a_refused_class_is_named_with_the_option_to_trust_it() -> None:
    config = {"loss": {"_target_": "my_package.losses.Loss"}}
    with pytest.raises(MedvisionError, match=r"names my_package\.losses\.Loss") as error:
        check_classes(config, Purpose.EVALUATE, where="run", hint="none")
    assert error.value.hint == (
        "if you know the package my_package and trust it, add --trust my_package"
    )
    config["loss"]["_target_"] = "os.system"
    with pytest.raises(MedvisionError, match=r"names os\.system") as error:
        check_classes(config, Purpose.EVALUATE, where="run", hint="none")
    assert error.value.hint == "none"
