"""The page of the metrics listener, in a real browser, as wide as a telephone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.browser import Browser
from tests.support.daemon import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

LONG = "a-volume-with-a-name-that-is-much-longer-than-a-telephone-is-wide-" * 2
TAG = "<img src=x onerror=alert(1)>" * 4
_WIDER = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest.fixture
def port(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> int:
    """A daemon with a cut, a suspended group and a volume that was used."""
    port = free_port()
    extra = f'[metrics]\nlisten = "tcp:127.0.0.1:{port}"\n'
    volumes = {LONG[:120]: "1MiB", "wal": "1MiB"}
    files = make_files(volumes=volumes, groups={"db": list(volumes)}, extra=extra)
    daemon = start_daemon(files)
    asyncio.run(_use(files.uri("wal")))
    body = {"targets": ["db"], "tag": TAG}
    assert daemon.request("POST", "/v1/suspend", body)[0] == 200
    return port


async def _use(uri: str) -> None:
    async with connect(uri) as client:
        await client.write(0, b"x" * 4096)


def test_a_telephone_shows_all_of_it_and_nothing_is_blocked(port: int, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.open(f"http://127.0.0.1:{port}/")
        shown = browser.evaluate("document.body.innerText")
        for text in ("test", LONG[:120], "SUSPENDED by command", "consistent", TAG, "both images"):
            assert text in shown
        assert browser.evaluate("document.images.length") == 0  # the tag is text
        assert browser.evaluate(_WIDER) is False
        style = "getComputedStyle(document.querySelector('article')).borderTopStyle"
        assert browser.evaluate(style) == "solid"  # its style sheet is there
        blocked = [each for each in browser.complaints if "favicon" not in each]
        assert blocked == []


def test_the_browser_runs_nothing_that_is_put_into_the_page(port: int, tmp_path: Path) -> None:
    """What is blocked is reported, too: the test above would have seen it."""
    with Browser(tmp_path) as browser:
        browser.open(f"http://127.0.0.1:{port}/")
        before = len(browser.complaints)
        browser.evaluate(
            "document.body.append(Object.assign(document.createElement('script'),"
            " {textContent: 'document.title = \"ran\"'}))"
        )
        assert browser.evaluate("document.title") == "duplexd test"
        browser.until(lambda: len(browser.complaints) > before)
