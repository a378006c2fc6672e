import hashlib
from pathlib import Path

import pytest

from medvision.data.samples import Sample
from medvision.data.splits.groups import hash_groups

SAMPLES = [
    Sample(path="a.png", target="x", group="person1"),
    Sample(path="b.png", target="x", group="person2", split="val"),
    Sample(path="c.png", target="x", group="person1"),
    Sample(path="d.png", target="x"),
]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDVISION_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def test_the_hash_depends_on_salt_and_group(state: Path) -> None:
    hashed, warning = hash_groups(SAMPLES)
    salt = (state / "group_salt").read_bytes()
    expected = [hashlib.sha256(salt + name).hexdigest()[:12] for name in (b"person1", b"person2")]
    assert [s.group for s in hashed] == [expected[0], expected[1], expected[0], ""]
    assert warning is None
    assert [(s.path, s.target, s.split) for s in hashed] == [
        (s.path, s.target, s.split) for s in SAMPLES
    ]


def test_the_salt_is_created_once_and_only_readable_by_its_owner(state: Path) -> None:
    first, _ = hash_groups(SAMPLES)
    salt = (state / "group_salt").read_bytes()
    assert len(salt) == 32
    assert hash_groups(SAMPLES)[0] == first
    assert (state / "group_salt").read_bytes() == salt
    assert (state / "group_salt").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in state.iterdir()] == ["group_salt"]  # nothing half written


def test_another_salt_gives_other_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name in ("one", "two"):
        monkeypatch.setenv("MEDVISION_STATE_DIR", str(tmp_path / name))
        found.append(hash_groups(SAMPLES)[0][0].group)
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_STATE_HOME": "{tmp}/xdg"}, "xdg/medvision/group_salt"),
        ({"XDG_STATE_HOME": "relative"}, "home/.local/state/medvision/group_salt"),
        ({}, "home/.local/state/medvision/group_salt"),
    ],
)
def test_the_salt_is_stored_in_the_users_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.delenv("MEDVISION_STATE_DIR", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    hash_groups(SAMPLES)
    assert (tmp_path / expected).is_file()


def test_a_folder_that_cannot_be_written_gives_a_warning_and_a_temporary_salt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDVISION_STATE_DIR", str(tmp_path / "file" / "below"))
    hashed, warning = hash_groups(SAMPLES)
    assert "MEDVISION_STATE_DIR" in (warning or "")
    assert hashed[0].group == hashed[2].group != hashed[1].group
    assert hash_groups(SAMPLES)[0] == hashed  # the same within the process


def test_a_damaged_salt_is_reported_and_kept(state: Path) -> None:
    state.mkdir()
    (state / "group_salt").write_bytes(b"short")
    hashed, warning = hash_groups(SAMPLES)
    assert "expected 32 bytes in" in (warning or "")
    assert len(hashed[0].group) == 12
    assert (state / "group_salt").read_bytes() == b"short"


def test_no_salt_is_created_without_groups(state: Path) -> None:
    assert hash_groups(SAMPLES[3:]) == (SAMPLES[3:], None)
    assert not state.exists()
