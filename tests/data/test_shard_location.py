"""Shards at an address: a local web server and the in-memory file system."""

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from omegaconf import OmegaConf

from medvision.data import SegmentationData
from medvision.data.loading.sampler import ShardSampler
from medvision.data.shards import location as shard_place
from medvision.data.shards.cache import ShardCache
from medvision.data.shards.create import make_shards
from medvision.data.shards.location import check_address, place_of
from medvision.data.shards.manifest import Part
from medvision.data.sources import ShardSource
from medvision.errors import MedvisionError
from medvision.run.config.schema import _check_paths
from medvision.run.config.store import keys_of
from medvision.types import STAGES


@dataclass
class Site:
    """Local server for the files of a folder with a record of its requests."""

    url: str = ""
    folder: Path = Path()
    cut: list[int] = field(default_factory=list)  # bytes of the next answers about shards
    status: int = 200
    asked: list[str] = field(default_factory=list)

    @property
    def shards(self) -> list[str]:
        """Names of the requested shards, in order."""
        return [name for name in self.asked if name.endswith(".tar")]


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def _answer(self, *, send: bool) -> None:
        path = self.site.folder / Path(self.path).name
        if send:
            self.site.asked.append(path.name)
        if not path.is_file() or self.site.status != 200:
            self.send_error(404 if self.site.status == 200 else self.site.status)
            return
        body = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send and path.suffix == ".tar" and self.site.cut:
            body = body[: self.site.cut.pop(0)]
            self.close_connection = True
        if send:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    monkeypatch.setattr(shard_place, "WAIT_S", 0.0)
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    behaviour = Site()
    handler = type("OwnHandler", (Handler,), {"site": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    behaviour.url = f"http://127.0.0.1:{server.server_address[1]}/set"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield behaviour
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def served(site: Site, make_folder: Callable[..., Path]) -> Site:
    """Thirty images with masks in about eight shards on the server."""
    root = make_folder(30)
    site.folder = make_shards(root, root.with_name("shards"), shard_bytes=40_000).out
    return site


def prepared(root: Path | str, **changes: Any) -> SegmentationData:
    shipped = keys_of("data", "folder_segmentation")
    shipped.pop("_target_")
    small = {"seed": 0, "image_size": 32, "batch_size": 4, "num_workers": 0}
    data = SegmentationData(**{**shipped, "root": str(root), **small, **changes})
    data.prepare()
    return data


def images_of(data: SegmentationData) -> list[torch.Tensor]:
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    return [batch["image"] for loader in loaders for batch in loader]


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/shards").iterdir())


def test_a_set_on_a_server_trains_as_the_folder_does(served: Site, tmp_path: Path) -> None:
    plain, remote = prepared(tmp_path / "set"), prepared(served.url)
    assert remote.fingerprint == plain.fingerprint
    assert remote.notes == plain.notes
    assert [list(remote.tables[s]) for s in STAGES] == [list(plain.tables[s]) for s in STAGES]
    assert served.asked == ["shards.json", "table.npz", "facts.npz"]  # without shards
    found, expected = images_of(remote), images_of(plain)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    num_shards = len(list(served.folder.glob("*.tar")))
    assert num_shards <= 8
    assert len(served.shards) == len(set(served.shards)) == num_shards


def test_fetched_shards_are_not_fetched_again_by_any_run(served: Site, tmp_path: Path) -> None:
    images_of(prepared(served.url))
    served.asked.clear()
    images_of(prepared(f"{served.url}/"))
    assert served.asked == ["shards.json"]
    names = {path.name for path in cached(tmp_path)}
    contents = {path.name: path.read_bytes() for path in cached(tmp_path)}
    assert names == {hashlib.sha256(content).hexdigest() for content in contents.values()}


def test_shards_are_fetched_one_window_at_a_time(served: Site) -> None:
    data = prepared(served.url, shuffle_shards=2, batch_size=1)
    loader = data.train_dataloader()
    sampler = loader.sampler
    assert isinstance(sampler, ShardSampler)
    assert isinstance(data.source, ShardSource)
    numbers = data.source.shards_of(data.tables["train"])
    in_order = [numbers[key[1]] for key in sampler]
    assert served.shards == []
    list(loader)
    first_seen = list(dict.fromkeys(f"shard-{number:06d}.tar" for number in in_order))
    assert served.shards == first_seen
    for rows in (data.val_dataloader(), data.test_dataloader()):
        stage = "val" if rows.dataset.samples == data.tables["val"] else "test"
        order = [key[1] for key in rows.sampler]
        places = data.source.shards_of(data.tables[stage])[order]
        assert (places[1:] >= places[:-1]).all()


def test_local_shards_are_mixed_as_a_whole(served: Site) -> None:
    data = prepared(served.folder, shuffle_shards=1)
    assert not isinstance(data.train_dataloader().sampler, ShardSampler)


def test_the_cache_stays_within_its_limit_and_removes_the_least_recently_used_shards(
    served: Site, tmp_path: Path
) -> None:
    sizes = {path.name: path.stat().st_size for path in served.folder.glob("*.tar")}
    needed = 2 * max(sizes.values()) + 10_000
    opened = prepared(served.url, shuffle_shards=1).source
    folder = tmp_path / "cache/shards"
    cache = ShardCache(address=served.url, folder=folder, max_bytes=needed)
    parts = list(opened.manifest.shards)[:4]
    for number, part in enumerate(parts):
        os.close(cache.open(part))
        for path in folder.iterdir():  # uses may be seconds apart
            state = path.stat()
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns - 10**9))
        assert sum(path.stat().st_size for path in folder.iterdir()) <= needed
        kept = {path.name for path in folder.iterdir()}
        assert part.sha256 in kept
        if number:
            assert parts[number - 1].sha256 in kept
    served.asked.clear()
    os.close(cache.open(parts[3]))
    assert served.asked == []
    os.close(cache.open(parts[0]))
    assert served.shards == [parts[0].name]


def test_several_readers_fetch_a_shard_once(served: Site, tmp_path: Path) -> None:
    opened = prepared(served.url).source
    part = opened.manifest.shards[0]
    caches = [
        ShardCache(address=served.url, folder=tmp_path / "cache/shards", max_bytes=10**9)
        for _ in range(6)
    ]
    with ThreadPoolExecutor(6) as pool:
        for number in pool.map(lambda cache: cache.open(part), caches):
            assert os.fstat(number).st_size == part.num_bytes
            os.close(number)
    assert served.shards == [part.name]


def test_incomplete_files_of_a_killed_process_in_the_cache_are_ignored(
    served: Site, tmp_path: Path
) -> None:
    opened = prepared(served.url).source
    folder = tmp_path / "cache/shards"
    part, other = opened.manifest.shards[:2]
    (folder / f"{part.sha256}.part").write_bytes(b"half")
    (folder / f"{other.sha256}.part").write_bytes(bytes(10**6))
    bound = sum(path.stat().st_size for path in folder.iterdir()) - 10**6 + part.num_bytes
    cache = ShardCache(address=served.url, folder=folder, max_bytes=bound)
    os.close(cache.open(part))
    names = {path.name for path in folder.iterdir()}
    assert part.sha256 in names
    assert not [name for name in names if not name.isalnum()]


def test_a_shard_that_is_being_fetched_is_not_removed(served: Site, tmp_path: Path) -> None:
    opened = prepared(served.url).source
    folder = tmp_path / "cache/shards"
    part, other = opened.manifest.shards[:2]
    arriving, lock = (folder / f"{other.sha256}.{kind}" for kind in ("part", "lock"))
    arriving.write_bytes(b"half")
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # like the process that fetches it
        os.close(ShardCache(address=served.url, folder=folder, max_bytes=part.num_bytes).open(part))
        assert arriving.read_bytes() == b"half"


def test_a_shard_stays_readable_when_the_cache_has_removed_it(served: Site, tmp_path: Path) -> None:
    data = prepared(served.url)
    first = data.dataset("train")[0, 0]["image"]
    for path in cached(tmp_path):
        path.unlink()
    assert (data.dataset("train")[0, 0]["image"] == first).all()


def test_a_closed_connection_is_retried(served: Site) -> None:
    served.cut = [100, 0, 5000]
    assert images_of(prepared(served.url))
    assert len(served.shards) == len(set(served.shards)) + 3


def test_a_server_that_keeps_failing_is_a_one_line_error(served: Site, tmp_path: Path) -> None:
    data = prepared(served.url)
    served.cut = [100] * 4
    with pytest.raises(MedvisionError) as caught:
        next(iter(data.train_dataloader()))
    name = served.shards[0]
    text = str(caught.value)
    assert text.startswith(f"cannot fetch {name}: ")
    assert text.endswith(
        f" ({served.url}/{name}); check the network, the address and the permissions"
    )
    assert "\n" not in text
    assert caught.value.exit_code == 3
    assert served.shards == [name] * 4
    assert not list((tmp_path / "cache/shards").glob("*.*"))


def test_a_shard_that_was_changed_on_the_server_is_not_read(served: Site) -> None:
    data = prepared(served.url)
    for path in served.folder.glob("*.tar"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(MedvisionError, match=r"its SHA-256 differs from shards\.json"):
        next(iter(data.train_dataloader()))


def test_a_missing_file_and_a_missing_server_are_one_line_errors(served: Site) -> None:
    served.folder = served.folder / "nowhere"
    with pytest.raises(MedvisionError) as caught:
        prepared(served.url)
    assert str(caught.value) == (
        f"no such file ({served.url}/shards.json); give the address of the folder with shards.json"
    )
    served.status = 503
    with pytest.raises(MedvisionError, match=r"cannot fetch shards\.json: 503") as caught:
        prepared(served.url)
    with pytest.raises(MedvisionError, match=r"cannot fetch shards\.json: ") as caught:
        prepared("http://127.0.0.1:9/set")
    assert caught.value.exit_code == 3


def test_a_cache_smaller_than_a_window_is_refused(served: Site) -> None:
    with pytest.raises(MedvisionError) as caught:
        prepared(served.url, shuffle_shards=2, cache_gb=5e-5)
    assert str(caught.value).startswith("mixing 2 shards takes ")
    assert str(caught.value).endswith(
        "the cache has 5e-05 GB (data.cache_gb); raise it, or lower data.shuffle_shards"
    )
    prepared(served.url, shuffle_shards=1, cache_gb=5e-5)


def test_any_file_system_of_fsspec_works(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDVISION_CACHE_DIR", str(tmp_path / "cache"))
    root = make_folder(20)
    out = make_shards(root, tmp_path / "shards", shard_bytes=20_000).out
    memory = fsspec.filesystem("memory")
    memory.put(str(out), "/sets/small", recursive=True)
    try:
        remote, plain = prepared("memory://sets/small", shuffle_shards=None), prepared(root)
        assert remote.fingerprint == plain.fingerprint
        pairs = zip(images_of(remote), images_of(plain), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    finally:
        memory.rm("/sets", recursive=True)


def test_loader_processes_share_the_cache(served: Site) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("pinned to one core")
    data = prepared(served.url, num_workers=2)
    expected = images_of(prepared(served.folder))
    found = images_of(data)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(served.shards) == len(set(served.shards))


def test_folders_and_addresses_are_distinguished() -> None:
    assert place_of("data/set") == Path("data/set")
    assert place_of("~/set") == Path.home() / "set"
    assert place_of("file:///data/set") == Path("/data/set")
    assert place_of("s3://bucket/set/") == "s3://bucket/set"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("foo://set", "unknown protocol foo (data.root=foo://set); give a folder, or an address"),
        (
            "gs://set",
            "the package that fsspec needs for gs:// is not installed (data.root=gs://set);"
            " run: pip inst",
        ),
    ],
)
def test_an_address_that_cannot_be_read_is_refused(address: str, words: str) -> None:
    with pytest.raises(MedvisionError) as caught:
        check_address(address)
    assert str(caught.value).startswith(words)


def test_an_address_without_the_extra_is_reported_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shard_place.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MedvisionError) as caught:
        check_address("s3://bucket/set")
    assert str(caught.value) == (
        "fsspec is not installed (data.root=s3://bucket/set);"
        " run: pip install -e '.[streaming]' (in the medvision checkout)"
    )


def test_a_config_with_an_address_is_accepted_and_one_with_a_missing_folder_refused(
    tmp_path: Path,
) -> None:
    cfg = OmegaConf.create({"data": {"root": "s3://bucket/set"}, "checkpoint": {}})

    _check_paths(cfg)
    cfg.data.root = f"file://{tmp_path}"
    _check_paths(cfg)
    cfg.data.root = f"file://{tmp_path}/gone"
    with pytest.raises(MedvisionError, match=r"gone does not exist \(data\.root\)"):
        _check_paths(cfg)


def test_file_names_of_the_manifest_are_not_used_in_the_cache(tmp_path: Path) -> None:
    part = Part(name="../../evil", num_bytes=3, sha256="0" * 64)
    path = tmp_path / "cache" / part.sha256
    path.parent.mkdir()
    path.write_bytes(b"abc")
    cache = ShardCache(address="memory://x", folder=path.parent, max_bytes=10)
    assert cache.path(part) == path
