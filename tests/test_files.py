import os
from contextlib import suppress
from pathlib import Path

import pytest

from faults import as_nobody
from medvision.files import (
    atomic_path,
    is_locked,
    is_writable,
    link_or_copy,
    run_status,
    short_name,
    take_lock,
    write_atomically,
)


def test_a_file_is_replaced_completely(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    write_atomically(path, "new ü")
    assert path.read_bytes() == "new ü".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def fail(self: Path, data: bytes) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("hard_links", [True, False])
def test_the_copy_keeps_its_content_when_the_source_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    if not hard_links:

        def fail(*_: object) -> None:
            raise OSError

        monkeypatch.setattr("os.link", fail)
    last, best = tmp_path / "last", tmp_path / "best"
    write_atomically(last, "epoch 0")
    link_or_copy(last, best)
    write_atomically(last, "epoch 1")
    assert best.read_text() == "epoch 0"
    link_or_copy(last, best)
    assert best.read_text() == "epoch 1"


def test_a_file_written_in_a_block_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    with atomic_path(path, keep_suffix=True) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".onnx"
        assert not path.exists()
    with suppress(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
    assert path.read_text() == "new"


LONG = "ü" * 125 + "x" + ".png"
"""A name of 255 bytes, the longest that file systems allow."""


def test_a_file_with_the_longest_name_is_written(tmp_path: Path) -> None:
    other = LONG.replace("x", "y")
    with atomic_path(tmp_path / LONG) as first, atomic_path(tmp_path / other) as second:
        assert first != second
        first.write_text("a")
        second.write_text("b")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {LONG: "a", other: "b"}
    assert atomic_name(tmp_path / "metrics.csv") == f".metrics.csv.{os.getpid()}.tmp"


def atomic_name(path: Path) -> str:
    with atomic_path(path) as temporary:
        temporary.touch()
    return temporary.name


def test_an_error_names_the_file_and_not_its_temporary_one(tmp_path: Path) -> None:
    for name in ("a.txt", LONG):
        path = tmp_path / "missing" / name
        with pytest.raises(FileNotFoundError) as error:
            write_atomically(path, "a")
        assert error.value.filename == str(path)


@pytest.mark.parametrize("name", ["a" * 300, "ü" * 200 + ".png", "\udcff" * 300, "a." + "b" * 300])
def test_names_that_are_too_long_are_cut_and_stay_different(name: str) -> None:
    short = short_name(f"in/{name}")
    parent, _, last = short.rpartition("/")
    assert parent == "in"
    assert 200 < len(os.fsencode(last)) <= 255
    assert last.endswith(".png") == name.endswith(".png")
    assert short_name(f"in/{name}") == short
    assert short_name(f"in/b{name}") != short
    assert short_name("in/a.png") == "in/a.png"


def test_a_lock_is_seen_without_taking_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert not is_locked(path)
    release = take_lock(path, wait=False)
    assert release is not None
    assert is_locked(path)
    release()
    path.touch()  # as a killed process leaves it
    assert not is_locked(path)
    assert path.exists()


@pytest.mark.parametrize(
    ("stored", "free", "held"),
    [
        ("running", "interrupted", "running"),
        ("interrupted", "interrupted", "running"),
        ("failed", "failed", "running"),
        ("finished", "finished", "finished"),
        ("pruned", "pruned", "pruned"),
    ],
)
def test_a_run_is_running_while_a_process_holds_its_lock(
    tmp_path: Path, stored: str, free: str, held: str
) -> None:
    assert run_status(tmp_path, {"status": stored}) == free
    release = take_lock(tmp_path / ".lock", wait=False)
    assert release is not None
    assert run_status(tmp_path, {"status": stored}) == held
    release()


def test_new_files_are_judged_by_the_nearest_folder(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    with as_nobody(tmp_path / "open"):
        (tmp_path / "open" / "file").touch()
        for path in ("open", "open/new/newer", "open/file"):
            assert is_writable(tmp_path / path)
        for path in (".", "closed", "closed/new"):
            assert not is_writable(tmp_path / path)
