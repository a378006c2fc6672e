from contextlib import suppress
from pathlib import Path

import pytest

from medvision.files import atomic_path, link_or_copy, write_atomically


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
