#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Uses the chat as a person does, in headless Chromium: opens the page, says something, sees it come back.

Usage: check.py URL SCREENSHOT. Speaks WebDriver to chromedriver with the standard library alone.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage --no-proxy-server --window-size=900,800""".split()
# Seconds; a virtual machine without hardware support is slow.
LIMIT = 60
# No proxy of the environment stands between this process and its own machine.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Browser:
    """One WebDriver session."""

    def __init__(self, base, binary, profile):
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"], "binary": binary}
        self.base = base
        self.base = f"{base}/session/" + self.post("/session", {
            "capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}})["sessionId"]

    def _call(self, request):
        try:
            with _open(request, timeout=LIMIT) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"chromedriver: {json.load(error)['value'].get('message', error)}") from None

    def post(self, path, body):
        """A command."""
        data = json.dumps(body).encode()
        return self._call(urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}))

    def get(self, path):
        """A question."""
        return self._call(self.base + path)

    def script(self, text, *arguments):
        """The value of a script in the page."""
        return self.post("/execute/sync", {"script": text, "args": list(arguments)})

    def element(self, selector):
        """Path of the element that a CSS selector finds."""
        return "/element/" + self.post("/element", {"using": "css selector", "value": selector})[ELEMENT]

    def type(self, selector, text):
        """Types into an element."""
        self.post(self.element(selector) + "/value", {"text": text})

    def wait(self, script, what):
        """Waits until a script in the page gives a true value."""
        end = time.monotonic() + LIMIT
        while not (value := self.script(script)):
            if time.monotonic() > end:
                raise SystemExit(f"did not see within {LIMIT} s: {what}")
            time.sleep(0.1)
        return value


@contextlib.contextmanager
def driver():
    """chromedriver on a port of its own; its base URL."""
    with subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        try:
            for line in process.stdout:
                words = line.rstrip(".\n").split()
                if "successfully" in words and words[-1].isdigit():
                    yield f"http://127.0.0.1:{words[-1]}"
                    break
            else:
                raise SystemExit("chromedriver did not start")
        finally:
            # The browser is in the driver's process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def main(url, screenshot):
    """The visit."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    said = f"hello from check.py, {time.time():.6f}"
    answer = f"and answered, {time.time():.6f}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, driver() as base:
        browser = Browser(base, binary, profile)
        browser.post("/url", {"url": url})
        browser.wait("return document.querySelector('#state.open') !== null", "the page connected")
        # A second participant in a second window: what one says must reach the other.
        first = browser.get("/window")
        second = browser.post("/window/new", {"type": "window"})["handle"]
        browser.post("/window", {"handle": second})
        browser.post("/url", {"url": url})
        browser.wait("return document.querySelector('#state').textContent === '2 here'", "both participants")
        browser.type("#text", answer + "\ue007")
        browser.post("/window", {"handle": first})
        browser.type("#text", said + "\ue007")
        for handle in (second, first):
            browser.post("/window", {"handle": handle})
            for text in (said, answer):
                seen = "return [...document.querySelectorAll('#log li')].some((li) => li.textContent.includes(%s))"
                browser.wait(seen % json.dumps(text), f"the message “{text}”")
        with open(screenshot, "wb") as file:
            file.write(base64.b64decode(browser.get("/screenshot")))
        browser._call(urllib.request.Request(browser.base, method="DELETE"))
    print(f"the chat works: two participants saw both messages; screenshot: {screenshot}")


if __name__ == "__main__":
    main(*sys.argv[1:])
