"""Access to the app, the addresses its pages may load from, and errors before it starts."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvision.app import server
from medvision.app.server import Guard, is_loopback, serve
from medvision.errors import MedvisionError

Asked = tuple[int, dict[str, str], str]


async def page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"etag", b"1")]})
    await send({"type": "http.response.body", "body": b"the page"})


def ask(*, token: str | None = None, query: str = "", kind: str = "http", **headers: str) -> Asked:
    """Status, headers and text that the guard answers to a request."""
    fields = {"host": "127.0.0.1:8501", **headers}
    scope = {
        "type": kind,
        "path": "/",
        "query_string": query.encode(),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in fields.items()],
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(page, token=token, largest_bytes=2_000_000)
    asyncio.run(guard(scope, None, send))
    if kind == "websocket" and sent[0]["type"] == "websocket.close":
        return 403, {}, sent[0]["reason"]
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, sent[1]["body"].decode()


def test_pages_may_load_from_this_server_only() -> None:
    status, headers, text = ask()
    assert (status, text) == (200, "the page")
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-src"] == "'self'"
    assert all(
        source.startswith("'") or source in ("data:", "blob:")
        for sources in policy.values()
        for source in sources.split()
    )
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("host", ["evil.example", "192.168.1.5:8501", ""])
def test_a_foreign_name_for_this_machine_is_refused(host: str) -> None:
    assert ask(host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost:8501", "127.0.0.1", "[::1]:8501"])
def test_the_names_of_this_machine_are_accepted(host: str) -> None:
    assert ask(host=host)[0] == 200


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_requests_of_other_sites_are_refused(kind: str) -> None:
    status, _, text = ask(kind=kind, origin="https://evil.example")
    assert status == 403
    assert "other sites" in text


def test_requests_of_the_page_itself_are_accepted() -> None:
    assert ask(origin="http://127.0.0.1:8501")[0] == 200


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_another_address_needs_the_token(kind: str) -> None:
    for cookie in (
        "",
        "medvision_token=wrong",
        "other=secret; medvision_token=",
        "medvision_token=é",
    ):
        assert ask(kind=kind, token="secret", host="10.0.0.7:8501", cookie=cookie)[0] in (401, 403)
    assert ask(token="secret", host="10.0.0.7:8501", query="token=wrong")[0] == 401


def test_the_token_becomes_a_cookie_that_scripts_cannot_read() -> None:
    status, headers, _ = ask(token="secret", host="10.0.0.7:8501", query="token=secret")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    again = ask(token="secret", host="10.0.0.7:8501", cookie=f"a=b; {cookie.split(';')[0]}")
    assert again[0] == 200


@pytest.mark.parametrize(("length", "status"), [("2000000", 200), ("4000000", 413), ("-1", 413)])
def test_large_uploads_are_refused(length: str, status: int) -> None:
    assert ask(content_length=length)[0] == status


def test_this_machine_alone_is_known() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.3.2.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))


Serve = Callable[..., None]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Serve:
    """Call ``serve`` up to the point where the server would start."""
    started: list[Any] = []
    monkeypatch.setattr(server, "_run", lambda *args, **options: started.append((args, options)))
    monkeypatch.setattr(server, "find_spec", lambda name: object())

    def call(*models: Path, **options: Any) -> Any:
        lines: list[str] = []
        values = {"address": "127.0.0.1", "port": 0, "save": tmp_path / "s", "largest_mb": 5}
        serve(models, **{**values, **options}, report=lines.append)
        return lines, started[-1]

    return call


def test_without_the_extra_it_says_how_to_get_it(
    start: Serve, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(MedvisionError, match=r"Streamlit is not installed .* '\.\[app\]'"):
        start(finished)


def test_only_other_addresses_get_a_token(start: Any, finished: Path) -> None:
    lines, (_, options) = start(finished)
    assert options["token"] is None
    assert "http://127.0.0.1:" in lines[1]
    lines, (_, options) = start(finished, address="0.0.0.0")
    assert len(options["token"]) >= 32
    assert options["token"] in lines[1]
    assert "not encrypted" in lines[2]


def test_a_port_in_use_is_named(start: Serve, finished: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(MedvisionError, match=r"cannot listen on 127\.0\.0\.1"):
            start(finished, port=taken.getsockname()[1])


def test_runs_of_different_tasks_are_refused(
    start: Serve, finished: Path, finished_chest: Path
) -> None:
    with pytest.raises(MedvisionError, match="different tasks or classes"):
        start(finished, finished_chest)
    with pytest.raises(MedvisionError, match="expected one or two runs, got 3"):
        start(finished, finished, finished)
    start(finished, finished)
