import errno
import multiprocessing
import os
import pickle
import signal
import stat
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medvision.data import pixel_cache
from medvision.data.pixel_cache import (
    INDEX,
    KEY_BYTES,
    PIXELS,
    TAIL_BYTES,
    PixelStore,
)

SIZE = 50
STRIDE = SIZE + TAIL_BYTES
EACH = STRIDE + KEY_BYTES
FORK = multiprocessing.get_context("fork")


def key(number: int) -> bytes:
    return number.to_bytes(8, "big") * 2


def pixels(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, SIZE, dtype=np.uint8)


def store(folder: Path, name: str = "set", *, fits: float = 100, needed: int = 100) -> PixelStore:
    return PixelStore(
        folder=folder / "pixels",
        name=name,
        num_bytes=SIZE,
        max_bytes=round(fits * EACH),
        num_needed=needed,
    )


def filled(folder: Path, count: int, name: str = "set", **options: Any) -> PixelStore:
    made = store(folder, name, **options)
    for number in range(count):
        assert made.keep(key(number), pixels(number))
    return made


def path(folder: Path, suffix: str, name: str = "set") -> Path:
    return folder / "pixels" / f"{name}{suffix}"


def right(made: PixelStore, count: int) -> list[int]:
    """Return the first records that exist, after checking their content."""
    found = {number: made.read(key(number)) for number in range(count)}
    there = [number for number, record in found.items() if record is not None]
    assert all(np.array_equal(found[number], pixels(number)) for number in there)
    return there


def test_cached_pixels_are_read_by_another_store_of_the_same_name(tmp_path: Path) -> None:
    made = filled(tmp_path, 5)
    assert right(made, 7) == right(store(tmp_path), 7) == [0, 1, 2, 3, 4]
    assert right(store(tmp_path, "other"), 7) == []
    made.keep(key(5), pixels(5))
    assert path(tmp_path, PIXELS).stat().st_size == 6 * STRIDE
    assert path(tmp_path, INDEX).stat().st_size == 6 * KEY_BYTES


def test_pixels_read_from_a_store_are_writable(tmp_path: Path) -> None:
    made = filled(tmp_path, 1)
    found = made.read(key(0))
    assert found is not None
    found[:] = 0
    assert right(made, 1) == [0]


def test_a_reader_finds_records_added_later_by_others(tmp_path: Path) -> None:
    reader = store(tmp_path)
    assert right(reader, 3) == []
    filled(tmp_path, 3)
    assert right(reader, 3) == [0, 1, 2]


def test_folder_and_files_are_for_their_owner_only(tmp_path: Path) -> None:
    filled(tmp_path / "cache", 1)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "cache/pixels").iterdir()}
    assert modes == {"set.pixels": 0o600, "set.index": 0o600}
    for folder in (tmp_path / "cache", tmp_path / "cache/pixels"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("suffix", [PIXELS, INDEX])
@pytest.mark.parametrize("rest", [0, 1, 0.5, 1.0, 1.5, 2.0, 2.99])
def test_truncated_files_lose_only_the_missing_records_and_are_repaired(
    tmp_path: Path, suffix: str, rest: float
) -> None:
    """Truncate as after a killed writer or a power failure."""
    reader = filled(tmp_path, 4)
    each = STRIDE if suffix == PIXELS else KEY_BYTES
    size = rest if isinstance(rest, int) else int(rest * each)
    os.truncate(path(tmp_path, suffix), size)
    whole = list(range(int(size // each)))
    assert right(store(tmp_path), 4) == whole
    assert set(right(reader, 4)) >= set(whole)  # it may have read the index before
    for number in (3, 2, 1, 0):
        assert reader.keep(key(number), pixels(number))
        assert store(tmp_path).keep(key(number), pixels(number))
    assert right(reader, 4) == right(store(tmp_path), 4) == [0, 1, 2, 3]
    assert path(tmp_path, PIXELS).stat().st_size == 4 * STRIDE
    assert path(tmp_path, INDEX).stat().st_size == 4 * KEY_BYTES


@pytest.mark.parametrize("extra", [(STRIDE, 0), (7, 0), (0, 5), (STRIDE, 5), (0, KEY_BYTES)])
def test_an_incomplete_record_of_a_killed_writer_is_never_returned(
    tmp_path: Path, extra: tuple[int, int]
) -> None:
    made = filled(tmp_path, 2)
    for suffix, more in zip((PIXELS, INDEX), extra, strict=True):
        with path(tmp_path, suffix).open("ab") as stream:
            stream.write(key(2)[:more] if suffix == INDEX else bytes(more))
    assert right(made, 4) == [0, 1]
    assert made.keep(key(3), pixels(3))
    assert right(made, 4) == right(store(tmp_path), 4) == [0, 1, 3]
    assert path(tmp_path, PIXELS).stat().st_size == 3 * STRIDE


@pytest.mark.parametrize("place", [0, SIZE - 1, SIZE, STRIDE - 5, STRIDE - 1])
def test_a_flipped_byte_is_detected_and_the_record_is_replaced(tmp_path: Path, place: int) -> None:
    made = filled(tmp_path, 3)
    data = bytearray(path(tmp_path, PIXELS).read_bytes())
    data[STRIDE + place] ^= 1
    path(tmp_path, PIXELS).write_bytes(data)
    assert right(made, 3) == right(store(tmp_path), 3) == [0, 2]
    assert made.keep(key(1), pixels(1))
    assert right(made, 3) == right(store(tmp_path), 3) == [0, 1, 2]
    assert path(tmp_path, PIXELS).stat().st_size == 3 * STRIDE


def test_a_damaged_index_hides_records_and_never_shows_another(tmp_path: Path) -> None:
    made = filled(tmp_path, 3)
    data = path(tmp_path, INDEX).read_bytes()
    path(tmp_path, INDEX).write_bytes(data[KEY_BYTES:] + data[:KEY_BYTES])
    assert right(store(tmp_path), 3) == []
    assert right(made, 3) == [0, 1, 2]
    fresh = store(tmp_path)
    for number in range(3):
        assert fresh.keep(key(number), pixels(number))
    assert right(fresh, 3) == [0, 1, 2]


def _write_some(folder: Path, numbers: list[int]) -> None:
    made = store(folder)
    for number in numbers:
        made.keep(key(number), pixels(number))


def test_processes_that_write_at_once_keep_every_record_once(tmp_path: Path) -> None:
    shares = [list(range(60)), list(range(99, 39, -1)), list(range(20, 80))]
    processes = [FORK.Process(target=_write_some, args=(tmp_path, share)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert right(store(tmp_path), 110) == list(range(100))
    assert path(tmp_path, PIXELS).stat().st_size == 100 * STRIDE


def test_a_process_killed_while_writing_damages_no_other_record(tmp_path: Path) -> None:
    total = 0
    for turn in range(6):
        numbers = list(range(turn, 3000, 2))
        process = FORK.Process(target=_write_some, args=(tmp_path, numbers))
        process.start()
        before, until = total, time.monotonic() + 10
        while total <= before + turn and time.monotonic() < until:
            time.sleep(0.001)
            index = path(tmp_path, INDEX)
            total = index.stat().st_size // KEY_BYTES if index.exists() else 0
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        after = store(tmp_path, fits=3000)
        there = right(after, 3000)
        assert len(there) > before
        assert after.keep(key(5000 + turn), pixels(5000 + turn))
        assert right(after, 3000) == there


def test_the_size_limit_covers_all_stores_and_existing_records_stay(tmp_path: Path) -> None:
    made = store(tmp_path, fits=3.5)
    assert made.bytes_each == EACH
    assert [made.keep(key(n), pixels(n)) for n in range(5)] == [True, True, True, False, False]
    assert right(made, 5) == [0, 1, 2]
    assert made.num_bytes_used() == 3 * EACH
    assert made.keep(key(1), pixels(1))  # known: needs no space


def test_the_least_recently_used_stores_are_removed_unless_in_use(tmp_path: Path) -> None:
    used = filled(tmp_path, 2, "used")
    for name, age in (("old", 200), ("older", 300), ("used", 400)):
        filled(tmp_path, 2, name)
        for suffix in (PIXELS, INDEX):
            when = time.time() - age
            os.utime(path(tmp_path, suffix, name), (when, when))
    made = store(tmp_path, "new", fits=7)
    for number in range(3):
        assert made.keep(key(number), pixels(number))
    names = {p.name for p in (tmp_path / "pixels").iterdir() if p.suffix == PIXELS}
    assert names == {"used.pixels", "old.pixels", "new.pixels"}
    assert [made.keep(key(n), pixels(n)) for n in range(3, 6)] == [True, True, False]
    assert {p.stem for p in (tmp_path / "pixels").iterdir()} == {"used", "new"}
    assert right(used, 2) == [0, 1]


def test_a_full_store_of_obsolete_records_is_replaced_once(tmp_path: Path) -> None:
    filled(tmp_path, 4, fits=4.5)
    reader = store(tmp_path, fits=4.5)
    assert right(reader, 4) == [0, 1, 2, 3]
    made = store(tmp_path, fits=4.5, needed=4)
    for number in range(4, 8):
        assert made.keep(key(number), pixels(number))
    assert right(made, 8) == right(reader, 8) == [4, 5, 6, 7]  # the reader has closed the old files
    assert not made.keep(key(0), pixels(0))
    assert made.num_bytes_used() == 4 * EACH


def test_a_store_with_space_for_a_part_of_its_data_set_keeps_that_part(tmp_path: Path) -> None:
    made = filled(tmp_path, 4, fits=4.5, needed=5)
    assert not made.keep(key(4), pixels(4))
    assert right(made, 5) == [0, 1, 2, 3]


def test_disk_space_for_checkpoints_is_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, 2, "other")
    made = filled(tmp_path, 1)
    monkeypatch.setattr(PixelStore, "free_bytes", lambda self: EACH - 1)
    assert made.keep(key(1), pixels(1))  # replaces the other
    assert not path(tmp_path, PIXELS, "other").exists()
    assert not made.keep(key(2), pixels(2))
    assert right(made, 3) == [0, 1]


@pytest.mark.parametrize("part", [0, 20, STRIDE - 1, STRIDE, STRIDE + 3])
def test_a_disk_that_fills_up_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    made = filled(tmp_path, 2)
    left, real = [part], os.pwrite

    def pwrite(number: int, data: Any, start: int) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(number, bytes(data)[: left[0]], start)
        left[0] -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", pwrite)
        with pytest.raises(OSError, match="No space left"):
            made.keep(key(2), pixels(2))
        assert right(made, 3) == right(store(tmp_path), 3) == [0, 1]
    assert made.keep(key(2), pixels(2))
    assert right(made, 3) == right(store(tmp_path), 3) == [0, 1, 2]


def test_waiting_for_a_suspended_process_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, other = filled(tmp_path, 1), store(tmp_path)
    monkeypatch.setattr(pixel_cache, "WAIT_S", 0.01)
    with other.alone(), pytest.raises(OSError, match=r"has held .*pixels for 0\.01 s"):
        made.keep(key(1), pixels(1))
    assert made.keep(key(1), pixels(1))


def test_a_removed_store_is_created_again(tmp_path: Path) -> None:
    made = filled(tmp_path, 2)
    for suffix in (PIXELS, INDEX):
        path(tmp_path, suffix).unlink()
    assert right(made, 2) == []
    assert made.keep(key(0), pixels(0))
    assert right(store(tmp_path), 2) == [0]


def num_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _read_all(folder: Path, made: PixelStore, answers: Any) -> None:
    own = num_open()
    there = right(made, 4)
    answers.put((there, num_open() - own, made.keep(key(3), pixels(3))))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of descriptors")
def test_forked_and_pickled_stores_open_their_own_files(tmp_path: Path) -> None:
    before = num_open()
    made = filled(tmp_path, 3)
    assert num_open() == before + 2
    answers = FORK.SimpleQueue()
    process = FORK.Process(target=_read_all, args=(tmp_path, made, answers))
    process.start()
    process.join()
    assert answers.get() == ([0, 1, 2], 0, True)  # the child closes those of the parent
    assert right(pickle.loads(pickle.dumps(made)), 4) == [0, 1, 2, 3]
    process.close()
    answers.close()
    del made
    assert num_open() == before


def test_where_the_images_lie_takes_few_bytes_of_every_process(tmp_path: Path) -> None:
    count = 100_000
    filled(tmp_path, 1)
    drawn = np.random.default_rng(0).bytes(count * KEY_BYTES)
    path(tmp_path, INDEX).write_bytes(drawn)
    tracemalloc.start()
    files = pixel_cache.PixelFiles(tmp_path / "pixels" / "set", SIZE)
    files.look_again()
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{held / count:.1f} bytes per image, {most / count:.1f} while they are read")
    assert held < 16 * count
    assert most < 80 * count
    keys = [drawn[at : at + KEY_BYTES] for at in range(0, len(drawn), KEY_BYTES)]
    assert files.count == count
    assert [files.find(keys[k]) for k in range(0, count, 997)] == list(range(0, count, 997))
    assert files.find(key(1)) is None


def test_places_are_found_whether_they_came_one_by_one_or_together(tmp_path: Path) -> None:
    made, keys = store(tmp_path, fits=10_000), [key(k * 2**50) for k in range(2500)]
    for place, each in enumerate(keys):
        assert made.keep(each, pixels(0))
        if place % 500 == 499:
            files = made._current()
            assert files is not None
            assert [files.find(known) for known in keys[: place + 1]] == list(range(place + 1))
    whole = pixel_cache.PixelFiles(tmp_path / "pixels" / "set", SIZE)
    assert [whole.find(each) for each in keys] == list(range(len(keys)))
