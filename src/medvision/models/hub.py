"""Downloads that fail within seconds where there is no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT_S = 10.0


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Let the Hugging Face hub use only its cache while the hub does not answer.

    The library's own downloads repeat every request for half a minute before they give up, and
    a network may need several of them. Asked once first, through the library's own session
    (its proxies and mirrors), an absent network costs one request.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_answers() -> bool:
    from huggingface_hub import constants, get_session

    try:
        response = get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except Exception:  # whichever HTTP library the hub uses this year, with its own errors
        return False
    return response.status_code < 400
