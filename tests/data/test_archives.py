import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from medvision.data.download.archives import MAX_HEADER_BYTES, Limits, unpack
from medvision.errors import MedvisionError


def zip_bytes(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def tar_bytes(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:
        for name, content in files.items():
            add(archive, tarfile.TarInfo(name), content)
    return made.getvalue()


def add(archive: tarfile.TarFile, member: tarfile.TarInfo, content: bytes = b"") -> None:
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def tar_of(member: tarfile.TarInfo, content: bytes = b"") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        add(archive, tarfile.TarInfo("good.txt"), b"good")
        add(archive, member, content)
    return made.getvalue()


def special(kind: bytes, target: str = "") -> bytes:
    member = tarfile.TarInfo("odd")
    member.type, member.linkname = kind, target
    return tar_of(member)


def zip_link() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("good.txt", "good")
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return made.getvalue()


def encrypted() -> bytes:
    data = bytearray(zip_bytes({"a.txt": b"secret"}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    return bytes(data)


def understated() -> bytes:
    """Zip whose headers state ten bytes for a million."""
    data = zip_bytes({"a.txt": b"\0" * 1_000_000})
    return data.replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))


def long_header() -> bytes:
    member = tarfile.TarInfo("a.txt")
    member.pax_headers = {"comment": "x" * (MAX_HEADER_BYTES + 1)}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, member)
    return made.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def unpacked(tmp_path: Path, data: bytes, limits: Limits | None = None) -> dict[str, bytes]:
    archive = tmp_path / "archive"
    archive.write_bytes(data)
    number = unpack(archive, tmp_path / "out", **({} if limits is None else {"limits": limits}))
    found = contents(tmp_path / "out")
    assert number == len(found)
    return found


FILES = {"set/images/a.png": b"an image", "set/masks/a.png": b"a mask", "set/empty": b""}


@pytest.mark.parametrize(
    "pack",
    [
        zip_bytes,
        lambda files: tar_bytes(files, "w"),
        lambda files: tar_bytes(files, "w:gz"),
        lambda files: tar_bytes(files, "w:bz2"),
        lambda files: tar_bytes(files, "w:xz"),
    ],
    ids=["zip", "tar", "gz", "bz2", "xz"],
)
def test_every_archive_format_is_detected_by_content_and_unpacked_completely(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    assert unpacked(tmp_path, pack(FILES)) == FILES


def test_nested_archives_are_unpacked_in_place(tmp_path: Path) -> None:
    inner = tar_bytes({"images/a.jpg": b"1"})
    outer = zip_bytes({"set/Images.TAR.GZ": inner, "set/deeper.zip": zip_bytes({"b": b"2"})})
    assert unpacked(tmp_path, outer) == {
        "set/Images.TAR.GZ.unpacked/images/a.jpg": b"1",
        "set/deeper.zip.unpacked/b": b"2",
    }


def test_windows_names_and_double_slashes_stay_inside_the_folder(tmp_path: Path) -> None:
    assert unpacked(tmp_path, tar_bytes({".\\set\\.//a.txt": b"1"})) == {"set/a.txt": b"1"}


def test_macos_metadata_files_are_not_opened(tmp_path: Path) -> None:
    files = {"__MACOSX/._images.zip": b"\0\5\x16\7"}
    assert unpacked(tmp_path, zip_bytes(files)) == files


HOSTILE = {
    "absolute path": (zip_bytes({"/etc/a": b"1"}), "an absolute path"),
    "absolute path in tar": (tar_bytes({"/etc/a": b"1"}), "an absolute path"),
    "backslash": (zip_bytes({"\\etc\\a": b"1"}), "an absolute path"),
    "drive": (zip_bytes({"C:/a": b"1"}), "an absolute path"),
    "parent": (zip_bytes({"good": b"1", "a/../../b": b"1"}), "a path with .."),
    "parent in tar": (tar_bytes({"good": b"1", "../b": b"1"}), "a path with .."),
    "parent with backslash": (zip_bytes({"..\\b": b"1"}), "a path with .."),
    "control letters": (tar_bytes({"a\x1b[2Jb": b"1"}), "an unusable name"),
    "empty name": (tar_bytes({".": b"1"}), "an unusable name"),
    "very deep": (tar_bytes({"a/" * 200 + "b": b"1"}), "an unusable name"),
    "symlink in zip": (zip_link(), "a link or a device"),
    "symlink": (special(tarfile.SYMTYPE, "/etc"), "a link or a device"),
    "hard link": (special(tarfile.LNKTYPE, "../../victim"), "a link or a device"),
    "device": (special(tarfile.CHRTYPE), "a link or a device"),
    "pipe": (special(tarfile.FIFOTYPE), "a link or a device"),
    "encrypted": (encrypted(), "is encrypted"),
    "case": (zip_bytes({"A.png": b"1", "a.PNG": b"2"}), "differ only by case, A.png and a.PNG"),
    "case of folders": (
        zip_bytes({"Set/a": b"1", "set/b": b"2"}),
        "differ only by case, Set and set",
    ),
    "same name": (tar_bytes({"a": b"1", "./a": b"2"}), "a name twice"),
    "file as folder": (zip_bytes({"a": b"1", "a/b": b"2"}), "a name twice"),
    "taken name": (zip_bytes({"a.zip": zip_bytes({}), "a.zip.unpacked/b": b""}), "a name twice"),
    "long header": (long_header(), "cannot read the archive: a header of"),
    "understated size": (understated(), "cannot read the archive"),
    "cut zip": (zip_bytes(FILES)[:-30], "cannot read the archive"),
    "cut gzip": (tar_bytes({"a": bytes(range(256)) * 99})[:-90], "cannot read the archive"),
    "not an archive": (b"<html>sign in first</html>" * 99, "cannot read the archive"),
    "broken bz2": (b"BZh9" + b"x" * 999, "cannot read the archive"),
    "inner not an archive": (zip_bytes({"a.zip": b"<html>"}), "cannot read the archive"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(tmp_path: Path, case: str) -> None:
    data, reason = HOSTILE[case]
    (tmp_path / "victim").write_text("untouched")
    with pytest.raises(MedvisionError) as refused:
        unpacked(tmp_path, data)
    assert reason in str(refused.value)
    assert str(refused.value).isprintable()
    assert refused.value.exit_code == 3
    assert contents(tmp_path) == {"archive": data, "victim": b"untouched"}
    assert not (tmp_path / "out").exists()


SMALL = Limits(total_bytes=200_000, ratio=20, ratio_from_bytes=50_000, entries=20)
ZEROS = b"\0" * 100_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (zip_bytes({"a": ZEROS}), "more than 20 times its size"),
        (tar_bytes({"a": ZEROS}), "more than 20 times its size"),
        (tar_bytes({"a": ZEROS * 3}, "w"), "more than 200000 bytes"),
        (zip_bytes({"a": ZEROS * 3}), "more than 200000 bytes"),
        (zip_bytes({"a.zip": zip_bytes({"b": ZEROS})}), "more than 20 times its size"),
        (zip_bytes({str(n): b"" for n in range(21)}), "more than 20 entries"),
        (tar_bytes({str(n): b"" for n in range(21)}), "more than 20 entries"),
    ],
    ids=["zip", "tar", "large tar", "large zip", "nested", "zip entries", "tar entries"],
)
def test_bombs_are_refused_and_leave_nothing(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(MedvisionError, match=reason):
        unpacked(tmp_path, data, SMALL)
    assert not (tmp_path / "out").exists()


def test_bytes_are_counted_as_written_and_not_by_the_headers(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name in "abc":
            add(archive, tarfile.TarInfo(name), ZEROS[:40_000])
    with pytest.raises(MedvisionError, match="more than 20 times"):
        unpacked(tmp_path, made.getvalue(), SMALL)


def test_a_tar_with_endlessly_repeated_headers_stops_at_the_limit(tmp_path: Path) -> None:
    """Headers without content also count as entries."""
    folders = io.BytesIO()
    with tarfile.open(fileobj=folders, mode="w:gz") as archive:
        for _ in range(30):
            member = tarfile.TarInfo("same")
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
    with pytest.raises(MedvisionError, match="more than 20 entries"):
        unpacked(tmp_path, folders.getvalue(), SMALL)


def test_nesting_depth_two_is_unpacked_and_three_is_refused(tmp_path: Path) -> None:
    two = zip_bytes({"b.zip": zip_bytes({"c.zip": zip_bytes({"d": b"1"})})})
    assert unpacked(tmp_path, two) == {"b.zip.unpacked/c.zip.unpacked/d": b"1"}
    (tmp_path / "deeper").mkdir()
    with pytest.raises(MedvisionError, match="archives are nested more than 2 deep"):
        unpacked(tmp_path / "deeper", zip_bytes({"a.zip": two}))
    assert not (tmp_path / "deeper" / "out").exists()


def test_an_existing_folder_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        unpacked(tmp_path, zip_bytes(FILES))
    assert contents(tmp_path / "out") == {"mine": b"mine"}
