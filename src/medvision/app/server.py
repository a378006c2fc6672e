"""Server of the app: who may connect, what a page may load, and how it starts and stops."""

from __future__ import annotations

import functools
import hmac
import ipaddress
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from medvision.errors import MedvisionError, install_command
from medvision.export.web import WEB
from medvision.files import check_writable

if TYPE_CHECKING:
    from medvision.app.served import App

PAGE = Path(__file__).with_name("page.py")
COOKIE = "medvision_token"
MEGABYTE = 10**6

CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # Streamlit compiles templates
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "frame-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
"""The browser loads and sends nothing beyond this server, whatever a page contains."""

REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
"""A report runs no script and has no access to the app: a run folder may come from anyone."""

_app: App | None = None


def current_app() -> App:
    """Return the app that this process serves."""
    assert _app is not None, "the page is only run by serve()"
    return _app


@functools.cache
def viewer() -> Any:
    """Register the part of the page that shows a result and edits its mask."""
    import streamlit as st

    script = "\n".join((WEB / name).read_text(encoding="utf-8") for name in ("viewer.js", "app.js"))
    style = "\n".join(
        (WEB / name).read_text(encoding="utf-8") for name in ("app.css", "viewer.css")
    )
    return st.components.v2.component(
        "medvision_viewer", html='<div class="mv-root"></div>', css=style, js=script
    )


def serve(
    models: Sequence[Path],
    *,
    address: str,
    port: int,
    save: Path,
    largest_mb: int,
    report: Callable[[str], None],
) -> None:
    """Serve the app until it is stopped.

    Args:
        models: One or two run folders or model files of the same task.
        address: Address to listen on; with any other than this machine's own, pages need a token.
        port: Port to listen on; 0 chooses a free one.
        save: Folder for corrected masks; created when the first one is saved.
        largest_mb: Largest uploaded file, in MB.
        report: Function that shows a line to the user.

    Raises:
        MedvisionError: If Streamlit is missing, a model cannot be loaded, the models have different
            tasks or classes, or the address cannot be used.
    """
    global _app
    if find_spec("streamlit") is None:
        raise MedvisionError(
            "Streamlit is not installed", where="serve", hint=f"run: {install_command('app')}"
        )
    if not 1 <= len(models) <= 2:
        raise MedvisionError(
            f"expected one or two runs, got {len(models)}", where="RUN", hint="choose two of them"
        )
    save = save.expanduser()
    check_writable(save, hint="give a writable folder with --save")
    port = _free_port(address, port)
    from medvision.app.served import App, ServedRun

    runs = [ServedRun.load(path) for path in models]
    cards = [run.model.card for run in runs]
    if len({(card.task, card.class_names) for card in cards}) > 1:
        raise MedvisionError(
            "the two runs have different tasks or classes",
            where=str(models[1]),
            hint="compare runs of one task",
        )
    _app = App(runs=runs, save=save)
    token = None if is_loopback(address) else secrets.token_urlsafe(24)
    for run in runs:
        report(f"{run.model!r}")
    name = f"[{address}]" if ":" in address else address
    query = "" if token is None else f"/?token={token}"
    report(f"open http://{name}:{port}{query} in a browser; stop with Ctrl-C")
    if token is not None:
        report("note: the connection is not encrypted: use it in networks that you trust")
    _run(address, port, token=token, largest_mb=largest_mb)


def is_loopback(address: str) -> bool:
    """Return True if only this machine reaches the address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _free_port(address: str, port: int) -> int:
    """Check that the address can be used; choose a port for 0."""
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((address, port))
            return int(tried.getsockname()[1])
    except OSError as error:
        raise MedvisionError(
            f"cannot listen on {address}, port {port}: {error.strerror or error}",
            where="--address, --port",
            hint="choose another port with --port",
        ) from error


def _run(address: str, port: int, *, token: str | None, largest_mb: int) -> None:
    import logging

    import streamlit as st
    import uvicorn
    from starlette.middleware import Middleware
    from starlette.routing import Route
    from streamlit import config

    for name, value in {
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        "global.developmentMode": False,
        "server.address": address,
        "server.port": port,
        "server.enableStaticServing": False,
        "server.fileWatcherType": "none",
        "server.headless": True,
        "server.maxUploadSize": largest_mb,
        "server.runOnSave": False,
        "theme.light.primaryColor": "#1d5688",
        "theme.dark.primaryColor": "#7ab8ee",
    }.items():
        config.set_option(name, value)
    logging.getLogger("streamlit").setLevel(logging.ERROR)
    app = st.App(
        PAGE,
        routes=[Route("/report/{place:int}", _report_page)],
        middleware=[Middleware(Guard, token=token, largest_bytes=largest_mb * MEGABYTE)],
        on_script_error=_log_error,
    )
    settings = uvicorn.Config(app, host=address, port=port, log_level="error", server_header=False)
    server = uvicorn.Server(settings)
    server.run()
    if not server.started:
        raise MedvisionError(
            f"the server did not start on {address}, port {port}",
            where="--address, --port",
            hint="choose another port with --port",
            exit_code=3,
        )


def _log_error(error: Exception) -> bool:
    """Write an unexpected error to the terminal; the page shows a sentence without details."""
    import traceback

    import streamlit as st

    sys.stderr.write("".join(traceback.format_exception(error)))
    st.error("Something went wrong; the terminal of medvision serve has the details.")
    return True


async def _report_page(request: Any) -> Any:
    from starlette.responses import HTMLResponse

    runs, place = current_app().runs, request.path_params["place"]
    page = runs[place].report if place < len(runs) else None
    headers = {"Content-Security-Policy": REPORT_POLICY}
    return HTMLResponse(page or "no such report", 200 if page else 404, headers=headers)


class Guard:
    """Layer in front of every request and connection.

    Refuses requests of other sites, requests without the token if there is one, and large uploads;
    adds the headers that keep pages from loading anything elsewhere; removes the path of the
    page's script from messages.

    Args:
        app: ASGI application.
        token: Token that a visitor has to present once; None for this machine alone.
        largest_bytes: Largest body of a request.
    """

    def __init__(self, app: Any, *, token: str | None, largest_bytes: int) -> None:
        self.app, self.token, self.largest_bytes = app, token, largest_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(scope, send, *refusal)
        elif self._presents_token(scope):
            cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            await _answer(scope, send, 303, "", {"location": "/", "set-cookie": cookie})
        else:
            await self.app(scope, receive, _sender(scope, send))

    def _refusal(self, scope: Any, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.token is None and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return 403, "Open the address that medvision serve has printed."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "Requests of other sites are refused."
        if self.token is not None and not (
            self._presents_token(scope) or self._has_cookie(headers.get("cookie", ""))
        ):
            return 401, "A token is needed: open the address that medvision serve has printed."
        length = headers.get("content-length", "0")
        # the parts of a form add a little to the file
        if not length.isdecimal() or int(length) > self.largest_bytes + MEGABYTE:
            return 413, f"The file is larger than {self.largest_bytes // MEGABYTE} MB."
        return None

    def _presents_token(self, scope: Any) -> bool:
        if self.token is None or scope["type"] != "http":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _has_cookie(self, cookies: str) -> bool:
        assert self.token is not None
        found = (part.strip().partition("=") for part in cookies.split(";"))
        return any(
            name == COOKIE and hmac.compare_digest(value.encode(), self.token.encode())
            for name, _, value in found
        )


async def _answer(
    scope: Any, send: Any, status: int, text: str, headers: dict[str, str] | None = None
) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": text[:120]})
        return
    fields = {"content-type": "text/plain; charset=utf-8", **(headers or {})}
    pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": text.encode()})


def _sender(scope: Any, send: Any) -> Callable[[Any], Any]:
    """Wrap ``send``: add headers to answers, and clean messages."""

    async def checked(message: Any) -> None:
        if message["type"] == "http.response.start":
            known = {name.lower() for name, _ in message["headers"]}
            added = {
                b"content-security-policy": CONTENT_POLICY.encode(),
                b"referrer-policy": b"no-referrer",
                b"x-content-type-options": b"nosniff",
                b"cache-control": b"no-store",
            }
            extra = [(name, value) for name, value in added.items() if name not in known]
            message = {**message, "headers": [*message["headers"], *extra]}
        elif message["type"] == "websocket.send" and message.get("bytes"):
            message = {**message, "bytes": without_script_path(message["bytes"])}
        await send(message)

    return checked if scope["type"] in ("http", "websocket") else send


def without_script_path(data: bytes) -> bytes:
    """Remove the path of the page's script from a message of Streamlit."""
    if str(PAGE.parent).encode() not in data:
        return data
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    message = ForwardMsg.FromString(data)
    if message.WhichOneof("type") != "new_session":
        return data
    message.new_session.main_script_path = PAGE.name
    return message.SerializeToString()
