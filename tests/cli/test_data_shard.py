import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medvision.cli import program
from medvision.data.shards import create as shard_store

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command in this process, in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medvision", *arguments])
        with pytest.raises(SystemExit) as ended:
            program.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_the_output_ends_with_the_number_of_shards_and_the_training_command(
    run_here: Run, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    make_folder(12)
    code, output, errors = run_here("data", "shard", "set", "my shards")
    size = (tmp_path / "my shards/shard-000000.tar").stat().st_size / 1e6
    assert (code, errors) == (0, "")
    assert output.splitlines() == [
        f"1 shard, 12 images with masks, {size:.1f} MB",
        "train on them: medvision train experiment=NAME 'data.root=my shards'",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my shards", "set"]


def test_options_reach_the_shards(
    run_here: Run, make_class_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_class_folder({"ill": 9, "sound": 9}, size_px=(900, 1000))
    command = ("data", "shard", str(root), "out", "--shard-mb", "1", "--task", "classification")
    code, output, _ = run_here(*command, "--group-pattern", r"case_(\d)[0-4]")
    assert code == 0
    assert output.splitlines()[0] == (
        "note: --group-pattern does not match 8 of 18 images:"
        " each is its own group unless a csv gives its group"
    )
    num_shards = len(list((tmp_path / "out").glob("shard-*.tar")))
    assert num_shards > 3
    assert output.splitlines()[1].startswith(f"{num_shards} shards, 18 images, ")


def test_skipped_files_are_reported(
    run_here: Run, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder(12)
    (root / "images/case_04.png").write_bytes(b"no picture")
    (root / "images/case_05.png").write_bytes(b"no picture")
    code, _, errors = run_here("data", "shard", "set", "out")
    assert code == 2
    assert errors.startswith("error: cannot use 2 of 12 images: images/case_04.png: not an image")
    assert errors.endswith("fix or remove them, or set --on-error skip\n")
    assert not (tmp_path / "out").exists()
    code, output, _ = run_here("data", "shard", "set", "out", "--on-error", "skip")
    assert code == 0
    assert output.startswith("note: SKIPPED 2 of 12 images because of --on-error skip")
    assert "\n1 shard, 10 images with masks, " in output


def test_ctrl_c_is_reported_and_leaves_nothing(
    run_here: Run,
    make_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_folder(12)
    read, seen = shard_store.read_content, []

    def interrupted(root: Path, name: str) -> bytes:
        seen.append(name)
        if len(seen) == 9:
            raise KeyboardInterrupt
        return read(root, name)

    monkeypatch.setattr(shard_store, "read_content", interrupted)
    code, _, errors = run_here("data", "shard", "set", "deep/out")
    assert code == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--color", "1,2"],
            "1,2 is not a valid colour (--color); give red,green,blue from 0 to 255",
        ),
        (["--color", "1,2,256"], "1,2,256 is not a valid colour (--color)"),
        (["--shard-mb", "0"], "Invalid value for '--shard-mb'"),
        (["--task", "regression"], "Invalid value for '--task'"),
    ],
)
def test_wrong_options_are_one_line(
    run_here: Run, make_folder: Callable[..., Path], options: list[str], words: str
) -> None:
    make_folder(4)
    code, _, errors = run_here("data", "shard", "set", "out", *options)
    assert code == 2
    assert errors.startswith(f"error: {words}")
    assert errors.count("\n") == 1


def test_commands_that_read_images_refuse_shards(
    run_here: Run, make_folder: Callable[..., Path]
) -> None:
    make_folder(12)
    assert run_here("data", "shard", "set", "out")[0] == 0
    assert run_here("audit", "out") == (
        2,
        "",
        "error: the audit reads a folder of images, got shards (out);"
        " audit the folder they were made from; a training on shards includes the audit\n",
    )
    assert run_here("predict", "run", "out", "--out", "masks") == (
        2,
        "",
        "error: predict reads image files, got shards (out); unpack them first: tar -xf SHARD\n",
    )
    assert run_here("data", "shard", "out", "again")[2].startswith(
        "error: the folder already contains shards (out)"
    )


def test_the_help_warns_that_shards_contain_file_names(run_here: Run) -> None:
    code, output, _ = run_here("data", "shard", "--help")
    assert code == 0
    words = " ".join(output.split())
    assert "including any patient identifiers" in words
