import subprocess
import sys
from pathlib import Path

import pytest

import medvision
from medvision import command_line
from medvision.command_line import resuming, training

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "medvision"


@pytest.mark.parametrize(
    ("program", "command"),
    [
        pytest.param(str(ROOT / "train.py"), f"python {ROOT / 'train.py'}", id="checkout"),
        pytest.param("/usr/bin/medvision", "medvision train", id="installed"),
        pytest.param("C:/Scripts/medvision.exe", "medvision train", id="installed-on-windows"),
        pytest.param(str(PACKAGE / "__main__.py"), "python -m medvision train", id="module"),
        pytest.param("/home/me/my_script.py", "python train.py", id="script-beside-a-checkout"),
        pytest.param("/home/me/train.py", "python train.py", id="another-train.py"),
    ],
)
def test_commands_repeat_the_way_the_program_was_started(
    monkeypatch: pytest.MonkeyPatch, program: str, command: str
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "whatever"])
    assert (
        training("experiment=a", "data.root=my set") == f"{command} experiment=a 'data.root=my set'"
    )
    assert resuming(Path("runs/my run")) == f"{command} resume='runs/my run'"


def test_a_relative_train_py_is_named_as_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "tests")
    monkeypatch.setattr(sys, "argv", ["../train.py"])
    assert training("seed=1") == "python ../train.py seed=1"


def test_an_installed_package_names_no_train_py(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command_line, "HERE", tmp_path / "site-packages" / "medvision")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest"])
    assert training("experiment=a") == "medvision train experiment=a"


def test_python_m_medvision_is_the_command_and_knows_its_version(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medvision"]
    for arguments, output in (
        (["--version"], f"medvision {medvision.__version__}\n"),
        (["train", "--help"], "usage: python -m medvision train experiment=NAME"),
    ):
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        assert done.stdout.startswith(output)
