"""A real browser for the tests of pages: Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0 --remote-allow-origins=* about:blank"
)


class Browser:
    """``with Browser() as browser: browser.open(path, width=400)``."""

    def __enter__(self) -> Browser:
        from websockets.sync.client import connect

        self.folder = Path(tempfile.mkdtemp(prefix="erpo-chromium-"))
        self.process = subprocess.Popen(
            [CHROMIUM, *_FLAGS.split(), f"--user-data-dir={self.folder}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        port_file = self.folder / "DevToolsActivePort"
        for _ in range(600):
            if port_file.is_file() and len(lines := port_file.read_text().split()) == 2:
                break
            time.sleep(0.1)
        else:
            raise RuntimeError("Chromium did not start")
        self.socket = connect(f"ws://127.0.0.1:{lines[0]}{lines[1]}", max_size=None, open_timeout=60)
        self.number, self.session, self.messages = 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol; its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.messages.append(answer)

    def open(self, path: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a file in a window of that size."""
        self.messages.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self.js("document.readyState === 'complete' && location.protocol === 'file:'"):
            time.sleep(0.05)

    def js(self, expression: str) -> Any:
        """The value of an expression in the page.

        Raises:
            RuntimeError: it throws.
        """
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def complaints(self) -> list[dict[str, Any]]:
        """What the console has got since the page was opened: exceptions, errors, warnings."""
        self.js("0")
        bad = []
        for message in self.messages:
            if message.get("method") == "Runtime.exceptionThrown" or (
                message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] in ("error", "warning")
            ):
                bad.append(message["params"])
        return bad

    def requests(self) -> list[str]:
        """Every URL that the page asked for."""
        self.js("0")
        return [m["params"]["request"]["url"] for m in self.messages if m.get("method") == "Network.requestWillBeSent"]

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]))
