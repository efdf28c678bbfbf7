"""A real browser for tests: Chromium by the WebDriver protocol, and what it saw of a page."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "" if CHROMIUM and DRIVER else "chromium and chromedriver are not installed"
_FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
_FLAGS += " --disable-sync --disable-default-apps --no-first-run --hide-scrollbars --disable-dev-shm-usage"
_OWN = ("chrome:", "chrome-untrusted:")
"""What the browser's own first tab loads, late at times; no page may."""
_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Seen:
    """What came of opening a page."""

    console: list[str]
    """Every line of the console: errors, and what the page's policy forbade."""
    requests: list[str]
    """Addresses it asked for, itself left out."""
    dialogs: list[str]


class Browser:
    """One tab. Dialogs stay open until they are read."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}/session"

    def call(self, method: str, path: str, **body: Any) -> Any:
        """One command of the protocol; its value."""
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.root + path, data, {"Content-Type": "application/json"}, method=method)
        with _LOCAL.open(request, timeout=60) as response:
            return json.load(response)["value"]

    def open(self, page: Path) -> Seen:
        """Opens a file and waits until it is still."""
        self.log("browser"), self.log("performance")
        address = page.as_uri()
        self.call("POST", "/url", url=address)
        dialogs = []
        time.sleep(0.3)  # what a page does late: an image that fails, a timer
        while (text := self._dialog()) is not None:
            dialogs.append(text)
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return Seen(
            console=[entry["message"] for entry in self.log("browser")],
            requests=[u for u in asked if u.partition("#")[0] != address and not u.startswith(_OWN)],
            dialogs=dialogs,
        )

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What a log has that was not read before."""
        found: list[dict[str, Any]] = self.call("POST", "/se/log", type=kind)
        return found

    def run(self, script: str) -> Any:
        """The value a script returns; it runs beside the page, whose policy does not bind it."""
        return self.call("POST", "/execute/sync", script=script, args=[])

    def shot(self, file: Path) -> None:
        """What the window shows, as PNG."""
        file.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def printed(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self.call("POST", "/print", page={"width": 21.0, "height": 29.7}))

    def _dialog(self) -> str | None:
        try:
            text = self.call("GET", "/alert/text")
        except HTTPError as error:
            assert json.load(error)["value"]["error"] == "no such alert"
            return None
        self.call("POST", "/alert/accept")
        return str(text)


@contextmanager
def browser(folder: Path, width: int = 1280, height: int = 900, scale: float = 1.0) -> Iterator[Browser]:
    """A browser without any past; `folder` holds its profile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        tab = Browser(port)
        _wait(port)
        options = {
            "binary": CHROMIUM,
            "args": [*_FLAGS.split(), f"--user-data-dir={folder / 'profile'}"],
            "mobileEmulation": {"deviceMetrics": {"width": width, "height": height, "pixelRatio": scale}},
        }
        wanted = {
            "browserName": "chrome",
            "unhandledPromptBehavior": "ignore",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = tab.call("POST", "", capabilities={"alwaysMatch": wanted})
        tab.root += "/" + made["sessionId"]
        try:
            tab.call("POST", "/url", url="about:blank")
            time.sleep(0.3)
            yield tab
        finally:
            tab.call("DELETE", "")
    finally:
        driver.terminate()
        driver.wait(30)


def _wait(port: int) -> None:
    for _ in range(200):
        try:
            _LOCAL.open(f"http://127.0.0.1:{port}/status", timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError("chromedriver did not start")
