import hashlib
import io
import json
import random
import re
import shutil
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from omegaconf import OmegaConf

import medvision.data.download.download as download_module
from medvision.data import SegmentationData
from medvision.data.discovery.index import index_classification, index_segmentation
from medvision.data.download import download as fetch
from medvision.data.download.catalog import CATALOG, DataSet
from medvision.data.download.download import SOURCE_FILE, download, is_absent
from medvision.errors import MedvisionError
from medvision.run.config.schema import check_config
from medvision.run.config.store import keys_of


@dataclass
class Site:
    """Local server with configurable behaviour and a record of its requests."""

    url: str = ""
    body: bytes = b""
    etag: str = '"one"'
    ranges: bool = True
    blind: bool = False  # sends a range and ignores If-Range
    status: int = 200
    cut_after: list[int] = field(default_factory=list)
    requests: list[tuple[str | None, int]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, wanted = self.site, self.headers.get("Range")
        start = 0
        same = site.blind or self.headers.get("If-Range") == site.etag
        if wanted and site.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = site.body[start:]
        self.send_response(site.status if site.status != 200 else 206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(site.body) - 1}/{len(site.body)}"
            )
        self.send_header("Content-Length", str(len(body)))
        if site.etag:
            self.send_header("ETag", site.etag)
        if site.cut_after:
            body = body[: site.cut_after.pop(0)]
        site.requests.append((wanted, len(body)))  # before the next request
        with suppress(OSError):  # the client may have disconnected
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(fetch, "WAIT_S", 0.0)
    monkeypatch.setattr(fetch, "CHUNK_BYTES", 1024)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    behaviour = Site()
    handler = type("OwnHandler", (Handler,), {"site": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    behaviour.url = f"http://127.0.0.1:{server.server_address[1]}/set.zip"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield behaviour
    server.shutdown()
    server.server_close()
    thread.join()


def zipped(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def noise(count: int) -> bytes:
    return random.Random(count).randbytes(count)


def pairs(count: int = 3) -> dict[str, bytes]:
    """Files of a segmentation archive, including unrelated ones."""
    files = {"Set/readme.txt": b"read me", "__MACOSX/Set/images/._0.png": b"junk"}
    for index in range(count):
        files[f"Set/images/{index}.png"] = noise(5000 + index)
        files[f"Set/masks/{index}.png"] = noise(300 + index)
    return files


def public(site: Site, **changes: Any) -> DataSet:
    known = DataSet(
        name="small_set",
        title="Small Set",
        task="segmentation",
        home_page="https://small.example/set",
        licence="CC0",
        citation="Small et al. 2020",
        num_images=3,
        size_mb=1,
        url=site.url,
        layout={"images": "Set/images", "masks": "Set/masks"},
    )
    return replace(known, **changes)


class Lines(list[str]):
    """Lines reported to the user."""

    __call__ = list.append


def files_of(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


IMAGES_AND_MASKS = [f"{kind}/{index}.png" for kind in ("images", "masks") for index in range(3)]


def test_a_data_set_is_announced_downloaded_arranged_and_recorded(
    site: Site, tmp_path: Path
) -> None:
    site.body = zipped(pairs())
    digest = hashlib.sha256(site.body).hexdigest()
    lines, root = Lines(), tmp_path / "data" / "small"
    done = download(public(site, checksum=f"sha256:{digest}"), root, report=lines)
    assert lines == [
        f"downloading Small Set (1 MB, licence: CC0) from {site.url} into {root}",
        f"the checksum matches the published one; SHA-256 {digest}",
        f"Small Set is in {root}: 6 files; cite Small et al. 2020",
    ]
    assert (done["sha256"], done["num_files"]) == (digest, 6)
    assert files_of(tmp_path) == [
        f"data/small/{n}" for n in sorted([SOURCE_FILE, *IMAGES_AND_MASKS])
    ]
    assert (root / "images/2.png").read_bytes() == noise(5002)
    source = json.loads((root / SOURCE_FILE).read_text())
    assert source.pop("date")[:2] == "20"
    assert source == {
        "name": "small_set",
        "title": "Small Set",
        "url": site.url,
        "sha256": digest,
        "size_bytes": len(site.body),
        "num_files": 6,
        "licence": "CC0",
        "citation": "Small et al. 2020",
        "home_page": "https://small.example/set",
        "note": "",
    }


def test_an_unpublished_checksum_is_shown_and_recorded(site: Site, tmp_path: Path) -> None:
    site.body = zipped(pairs())
    digest = hashlib.sha256(site.body).hexdigest()
    lines = Lines()
    assert download(public(site), tmp_path / "small", report=lines)["sha256"] == digest
    assert lines[1] == f"no checksum is published; SHA-256 {digest} is recorded in SOURCE.json"
    assert json.loads((tmp_path / "small" / SOURCE_FILE).read_text())["sha256"] == digest


def test_other_algorithms_are_checked_too(site: Site, tmp_path: Path) -> None:
    site.body = zipped(pairs())
    md5 = hashlib.md5(site.body).hexdigest()
    lines = Lines()
    download(public(site, checksum=f"md5:{md5}"), tmp_path / "small", report=lines)
    assert lines[1].startswith("the checksum matches the published one; SHA-256 ")


def test_a_closed_connection_is_resumed(site: Site, tmp_path: Path) -> None:
    site.body, site.cut_after = zipped(pairs()), [4096, 5120]
    done = download(public(site), tmp_path / "small", report=Lines())
    rest = len(site.body) - 4096 - 5120
    assert site.requests == [(None, 4096), ("bytes=4096-", 5120), ("bytes=9216-", rest)]
    assert done["sha256"] == hashlib.sha256(site.body).hexdigest()


def test_a_second_command_resumes_the_download(site: Site, tmp_path: Path) -> None:
    site.body, site.cut_after = zipped(pairs()), [2048, 1024, 1024, 1024, 1024]
    root = tmp_path / "small"
    with pytest.raises(MedvisionError) as cut:
        download(public(site), root, report=Lines())
    assert cut.value.exit_code == 3
    assert re.fullmatch(
        r"the connection was cut 5 times: .+ \(http://127.0.0.1:\d+/set.zip\);"
        r" 0.0 MB are kept: run the same command again to resume",
        str(cut.value),
    )
    assert not root.exists()
    assert files_of(tmp_path) == [
        f".small.small_set.download/{n}" for n in ("archive.part", "archive.part.json")
    ]
    site.requests.clear()
    download(public(site), root, report=Lines())
    assert site.requests == [("bytes=6144-", len(site.body) - 6144)]
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_an_interrupted_download_keeps_its_bytes_and_creates_no_partial_data_set(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.body = zipped(pairs())

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    root = tmp_path / "small"
    monkeypatch.setattr(download_module, "arrange", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(public(site), root, report=Lines())
    assert files_of(tmp_path) == [".small.small_set.download/archive"]
    monkeypatch.undo()
    site.requests.clear()
    download(public(site), root, report=Lines())
    assert site.requests == []  # the archive was complete
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_server_without_ranges_restarts_the_download(site: Site, tmp_path: Path) -> None:
    site.body, site.cut_after, site.ranges = zipped(pairs()), [4096], False
    done = download(public(site), tmp_path / "small", report=Lines())
    assert site.requests == [(None, 4096), ("bytes=4096-", len(site.body))]
    assert done["sha256"] == hashlib.sha256(site.body).hexdigest()


def test_a_file_that_changed_on_the_server_restarts_the_download(
    site: Site, tmp_path: Path
) -> None:
    site.body, site.cut_after = zipped(pairs()), [2048] * 5
    with pytest.raises(MedvisionError, match="was cut 5 times"):
        download(public(site), tmp_path / "small", report=Lines())
    site.etag, site.body = '"two"', zipped(pairs(4))
    done = download(public(site), tmp_path / "small", report=Lines())
    assert done["sha256"] == hashlib.sha256(site.body).hexdigest()
    assert done["num_files"] == 8


def test_a_range_of_another_file_is_not_added_to_the_part(site: Site, tmp_path: Path) -> None:
    site.body, site.cut_after = zipped(pairs()), [2048] * 5
    with pytest.raises(MedvisionError, match="was cut 5 times"):
        download(public(site), tmp_path / "small", report=Lines())
    site.blind, site.etag, site.body = True, '"two"', zipped(pairs(4))
    site.requests.clear()
    done = download(public(site), tmp_path / "small", report=Lines())
    assert [wanted for wanted, _ in site.requests] == ["bytes=10240-", None]
    assert done["sha256"] == hashlib.sha256(site.body).hexdigest()


def test_an_unrequested_range_is_not_accepted_as_the_file(site: Site, tmp_path: Path) -> None:
    site.body, site.status = zipped(pairs()), 206
    with pytest.raises(MedvisionError, match="cut 5 times: the file has changed on the server"):
        download(public(site), tmp_path / "small", report=Lines())


def test_no_bytes_are_reused_if_the_server_sends_no_version(site: Site, tmp_path: Path) -> None:
    site.body, site.cut_after, site.etag = zipped(pairs()), [4096], ""
    download(public(site), tmp_path / "small", report=Lines())
    assert site.requests == [(None, 4096), (None, len(site.body))]


def test_a_range_refused_by_the_server_restarts_the_download(site: Site, tmp_path: Path) -> None:
    site.body, site.cut_after = zipped(pairs()), [2048] * 5
    with pytest.raises(MedvisionError, match="was cut 5 times"):
        download(public(site), tmp_path / "small", report=Lines())
    site.status, site.requests = 416, []
    with pytest.raises(MedvisionError, match="416 Requested Range Not Satisfiable"):
        download(public(site), tmp_path / "small", report=Lines())
    assert [wanted is None for wanted, _ in site.requests] == [False, True, True, True, True]
    site.status = 200
    download(public(site), tmp_path / "small", report=Lines())


def test_a_wrong_checksum_names_file_and_both_sums_and_removes_the_file(
    site: Site, tmp_path: Path
) -> None:
    site.body = zipped(pairs())
    expected, found = "0" * 64, hashlib.sha256(site.body).hexdigest()
    with pytest.raises(MedvisionError) as wrong:
        download(public(site, checksum=f"sha256:{expected}"), tmp_path / "small", report=Lines())
    assert str(wrong.value) == (
        f"the sha256 of the file differs from the published one: expected {expected}, got {found};"
        f" the file was removed ({site.url}); run the command again; if that does not help,"
        " see https://small.example/set"
    )
    assert wrong.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_missing_network_is_a_one_line_error_at_once(site: Site, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/set.zip"
    with pytest.raises(MedvisionError) as absent:
        download(public(site, url=url), tmp_path / "data" / "small", report=Lines())
    assert str(absent.value) == (
        f"no network, or 127.0.0.1 does not answer: Connection refused ({url});"
        " check the network and run the command again, or see https://small.example/set"
    )
    assert absent.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_of_the_server_refers_to_the_home_page(
    site: Site, tmp_path: Path, status: int
) -> None:
    site.status = status
    with pytest.raises(MedvisionError, match=rf"answers {status} .*see https://small.example/set"):
        download(public(site), tmp_path / "small", report=Lines())
    assert len(site.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_request_to_a_busy_server_is_repeated(site: Site, tmp_path: Path) -> None:
    site.status = 503
    with pytest.raises(MedvisionError, match="cut 5 times: the server answers 503"):
        download(public(site), tmp_path / "small", report=Lines())
    assert len(site.requests) == 5


def test_a_full_disk_is_reported_before_the_download(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.body = zipped(pairs())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(
        MedvisionError, match=r"not enough disk space: 0 MB needed, 0 MB free .*free some"
    ):
        download(public(site), tmp_path / "small", report=Lines())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"../evil.png": b"1"}, "a path with .."),
        ({"/evil.png": b"1"}, "an absolute path"),
        ({"Other/images/a.png": b"1"}, "the archive has no folder Set/images"),
        ({"Set/images/a.txt": b"1"}, "the folder Set/images of the archive contains no image"),
        ({"a/Set/images/a.png": b"1", "b/Set/images/a.png": b"1"}, "has 2 folders Set/images"),
    ],
)
def test_an_archive_that_is_not_as_expected_leaves_nothing(
    site: Site, tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    site.body = zipped(files)
    (tmp_path / "here").mkdir()
    with pytest.raises(MedvisionError, match=reason):
        download(public(site), tmp_path / "here" / "small", report=Lines())
    assert files_of(tmp_path) == []
    assert list((tmp_path / "here").iterdir()) == []


def test_archives_inside_an_archive_are_arranged_as_mendeley_packs_them(
    site: Site, tmp_path: Path
) -> None:
    splits = ("train", "test")
    inner = {
        f"chest_xray/{split}/{name}/{index}.jpeg": noise(200 + index)
        for split in splits
        for name in ("NORMAL", "PNEUMONIA")
        for index in range(2)
    }
    inner |= {f"__MACOSX/chest_xray/{split}/NORMAL/._0.jpeg": b"junk" for split in splits}
    inner["chest_xray/train/.DS_Store"] = b"junk"
    site.body = zipped({"Data v2/ChestXRay2017.zip": zipped(inner), "Data v2/terms.pdf": b"terms"})
    known = CATALOG["chest_xray"]
    lines = Lines()
    done = download(replace(known, url=site.url, num_images=8), tmp_path / "chest", report=lines)
    assert done["num_files"] == 8
    assert lines[-1].startswith(f"{known.title} is in ")
    index = index_classification(tmp_path / "chest")
    assert index.class_names == ["NORMAL", "PNEUMONIA"]
    assert [sample.split for sample in index.samples].count("test") == 4
    assert index.notes == []


def test_tars_of_images_and_of_masks_become_images_and_masks(site: Site, tmp_path: Path) -> None:
    kinds = {"images": "jpg", "masks": "png"}
    site.body = zipped(
        {
            f"kvasir-instrument/{kind}.zip": zipped({f"{kind}/a.{suffix}": noise(99)})
            for kind, suffix in kinds.items()
        }
    )
    known = replace(CATALOG["kvasir_instrument"], url=site.url, num_images=1)
    download(known, tmp_path / "small", report=Lines())
    assert files_of(tmp_path / "small") == [SOURCE_FILE, "images/a.jpg", "masks/a.png"]


def test_class_folders_may_fill_the_root_itself(site: Site, tmp_path: Path) -> None:
    files = {f"MedNIST/{name}/{n}.jpeg": noise(99) for name in ("Hand", "CXR") for n in range(2)}
    site.body = zipped(files | {"MedNIST/README.md": b"read me"})
    known = replace(CATALOG["mednist"], url=site.url, num_images=4, checksum=None)
    download(known, tmp_path / "small", report=Lines())
    index = index_classification(tmp_path / "small")
    assert index.class_names == ["CXR", "Hand"]
    assert index.notes == []


def test_the_source_file_is_not_part_of_the_data(site: Site, tmp_path: Path) -> None:
    site.body = zipped(pairs())
    download(public(site), tmp_path / "small", report=Lines())
    index = index_segmentation(tmp_path / "small")
    assert [sample.path for sample in index.samples] == IMAGES_AND_MASKS[:3]
    assert index.notes == []


def test_a_number_of_images_other_than_published_is_reported(site: Site, tmp_path: Path) -> None:
    site.body = zipped(pairs(2))
    lines = Lines()
    download(public(site), tmp_path / "small", report=lines)
    assert "expected 6 files, found 4" in lines


def test_a_finished_data_set_is_not_changed(site: Site, tmp_path: Path) -> None:
    site.body = zipped(pairs())
    root = tmp_path / "small"
    first = download(public(site), root, report=Lines())
    site.requests.clear()
    lines = Lines()
    assert download(public(site), root, report=lines) == first
    assert lines == [f"Small Set is in {root} already: 6 files, nothing to download"]
    assert site.requests == []
    (root / "masks/0.png").unlink()
    with pytest.raises(MedvisionError, match="found 5 of the 6 files of Small Set"):
        download(public(site), root, report=lines)
    with pytest.raises(MedvisionError, match="the folder contains small_set"):
        download(public(site, name="other"), root, report=lines)


def test_a_folder_with_other_content_is_not_changed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(MedvisionError, match=r"the folder is not empty .*give a new folder"):
        download(public(site), tmp_path, report=Lines())
    assert files_of(tmp_path) == ["mine.txt"]
    assert site.requests == []


def test_an_empty_folder_and_a_link_to_one_are_filled(site: Site, tmp_path: Path) -> None:
    site.body = zipped(pairs())
    (tmp_path / "disk" / "small").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "small")
    assert is_absent(tmp_path / "link")
    download(public(site), tmp_path / "link", report=Lines())
    assert (tmp_path / "disk" / "small" / "images" / "0.png").is_file()
    assert not is_absent(tmp_path / "link")


def test_the_current_folder_is_not_replaced(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        MedvisionError, match=r"got a mounted folder or the current one .* such as small_set"
    ):
        download(public(site), Path(), report=Lines())
    assert site.requests == []


def test_one_download_at_a_time(site: Site, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".small.small_set.download.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(MedvisionError, match="another process is downloading Small Set"):
            download(public(site), tmp_path / "small", report=Lines())


def test_a_data_set_that_needs_an_account_sends_no_request(tmp_path: Path) -> None:
    with pytest.raises(MedvisionError, match=r"1\. get the archive .*/clinic"):
        download("cvc_clinicdb", tmp_path / "clinic", report=Lines())
    assert list(tmp_path.iterdir()) == []


def png(value: int, size: tuple[int, ...]) -> bytes:
    image = np.random.default_rng(value).integers(0, 99, size, dtype=np.uint8)
    image[8:20, 8 + value : 20 + value] = 255
    return bytes(cv2.imencode(".png", image)[1])


@pytest.fixture
def training(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., SegmentationData]:
    """Data module of ``data=kvasir_seg`` with the set on the local server."""
    files = {}
    for index in range(12):
        mask = np.zeros((40, 40), np.uint8)
        mask[8:20, 8 + index : 20 + index] = 255
        files[f"Set/images/{index}.png"] = png(index, (40, 40, 3))
        files[f"Set/masks/{index}.png"] = bytes(cv2.imencode(".png", mask)[1])
    site.body = zipped(files)
    sets = {"small_set": public(site, num_images=12)}
    monkeypatch.setattr("medvision.data.download.catalog.CATALOG", sets)

    def make(**changes: Any) -> SegmentationData:
        shipped = keys_of("data", "folder_segmentation")
        del shipped["_target_"]
        small = {"seed": 0, "image_size": 32, "batch_size": 4, "num_workers": 0}
        named = {"root": str(tmp_path / "data/small"), "download": "small_set"}
        return SegmentationData(**{**shipped, **small, **named, **changes})

    return make


def test_training_reports_its_download_and_continues_with_it(
    training: Callable[..., SegmentationData],
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = training()
    assert site.requests == []  # nothing happens before the run prepares its data
    data.prepare()
    root = tmp_path / "data/small"
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"downloading Small Set (1 MB, licence: CC0) from {site.url} into {root}"
    assert sum(map(len, data.tables.values())) == 12
    assert not data.synthetic
    again = training()
    again.prepare()
    assert len(site.requests) == 1
    assert again.fingerprint == data.fingerprint
    assert capsys.readouterr().out == ""


def test_an_existing_root_is_used_unchanged(
    training: Callable[..., SegmentationData], site: Site, make_folder: Callable[..., Path]
) -> None:
    data = training(root=str(make_folder()))
    data.prepare()
    assert site.requests == []


def test_without_a_root_training_draws_phantoms(
    training: Callable[..., SegmentationData], site: Site
) -> None:
    data = training(root=None, num_images=12)
    data.prepare()
    assert data.synthetic
    assert site.requests == []


def test_one_of_several_processes_downloads_and_the_others_use_the_result(
    training: Callable[..., SegmentationData], site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    together = [training() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda data: data.prepare(), together))
    assert len(site.requests) == 1
    assert len({data.fingerprint for data in together}) == 1
    assert capsys.readouterr().out.count("downloading Small Set") == 1
    root = together[0].given_root()
    assert [path.name for path in root.parent.iterdir() if "download" in path.name] == []


def test_a_data_set_for_another_task_is_refused(
    training: Callable[..., SegmentationData], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"small_set": public(site, task="classification")}
    monkeypatch.setattr("medvision.data.download.catalog.CATALOG", other)
    with pytest.raises(MedvisionError, match="is for classification, not for segmentation"):
        training().prepare()


def checked(**data: Any) -> None:
    check_config(
        OmegaConf.create(
            {
                "data": data,
                "checkpoint": {"monitor": "val/dice", "mode": "max"},
                "logger": None,
                "ckpt_path": None,
            }
        )
    )


def test_the_check_before_training_accepts_a_missing_root_with_a_download(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    checked(root=absent, download="kvasir_seg")
    with pytest.raises(MedvisionError, match=r"does not exist \(data.root\)"):
        checked(root=absent, download=None)
    with pytest.raises(MedvisionError, match=r"\(data.download\); did you mean kvasir_seg\?"):
        checked(root=absent, download="kvasir_sec")
    with pytest.raises(MedvisionError, match="CVC-ClinicDB cannot be downloaded automatically"):
        checked(root=absent, download="cvc_clinicdb")
    (tmp_path / "file").touch()
    with pytest.raises(MedvisionError, match=r"is not a folder \(data.root\)"):
        checked(root=str(tmp_path / "file"), download="kvasir_seg")
    checked(root=str(tmp_path), download="cvc_clinicdb")
    checked(root=None, download="cvc_clinicdb")
