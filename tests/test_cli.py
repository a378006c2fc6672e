import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).parent / "medvision")


def medvision(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_verbs(tmp_path: Path, arguments: list[str]) -> None:
    done = medvision(*arguments, cwd=tmp_path)
    assert done.returncode == 0
    assert "train" in done.stdout


def test_an_unknown_verb_is_one_line(tmp_path: Path) -> None:
    done = medvision("trian", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No such command 'trian'")
    assert done.stderr.count("\n") == 1


def test_train_passes_everything_on(tmp_path: Path) -> None:
    done = medvision("train", "experiment=polyp_unte", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean polyp_unet?" in done.stderr
    assert "Experiments" in medvision("train", "--help", cwd=tmp_path).stdout
