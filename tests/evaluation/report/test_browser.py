"""The page in a real browser: no console errors, no requests, videos that play together, sorting, no scripts.

Chromium is spoken to over its debugging pipe (messages of JSON that end in a zero byte on descriptors 3 and
4); without Chromium these tests are skipped.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hierasurg_core.evaluation.report.html import write_html
from hierasurg_core.evaluation.report.schema import read_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
NOISE = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
# Runs a program with two pipes at descriptors 3 and 4, wherever they are now.
WITH_PIPES = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
VIDEOS = "[...document.querySelector('.card').querySelectorAll('video')]"


class Browser:
    """A headless Chromium with one page open."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        to_child, self._to = os.pipe()
        self._from, from_child = os.pipe()
        arguments = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        arguments += [f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WITH_PIPES, str(to_child), str(from_child), *arguments],
            pass_fds=(to_child, from_child),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self._left, self._id, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []

    def attach(self) -> None:
        """Opens a page to talk to."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._id += 1
        message = {"id": self._id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._id:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            block = os.read(self._from, 1 << 20)
            assert block, "Chromium is gone"
            self._left += block
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def run(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> Any:
        """The first true value of an expression."""
        end = time.monotonic() + seconds
        while not (value := self.run(expression)):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)
        return value

    def open(self, page: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while "Page.loadEventFired" not in [event.get("method") for event in self.events]:
            self.events.append(self._next())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._to)
        os.close(self._from)


@pytest.fixture(scope="module")
def page(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_html(read_report(example), out, example)
    return out


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    running = Browser(tmp_path / "profile")
    try:
        running.attach()
        yield running
    finally:
        running.close()


def test_the_page_plays_sorts_and_stays_silent(browser: Browser, page: Path):
    browser.open(page)
    browser.run("document.querySelector('.card').scrollIntoView()")
    browser.until(f"{VIDEOS}.length === 3 && {VIDEOS}.every((video) => video.currentTime > 0.5)")
    times = browser.run(f"{VIDEOS}.map((video) => video.currentTime)")
    assert max(times) - min(times) < 1
    browser.run("document.querySelector('.card button').click()")
    assert browser.run(f"{VIDEOS}.every((video) => video.paused)")

    browser.run("document.getElementById('play-all').click()")
    assert browser.run("[...document.querySelectorAll('video')].every((video) => video.paused)")
    values = browser.run(
        """(() => {
            const [metric, order] = ["sort-metric", "sort-order"].map((id) => document.getElementById(id));
            const found = {};
            for (const name of ["psnr", "warp-error"]) for (const way of ["worst", "best"]) {
                [metric.value, order.value] = [name, way];
                metric.dispatchEvent(new Event("change"));
                const cards = [...document.querySelectorAll(".card")];
                found[`${name} ${way}`] = cards.map((card) => JSON.parse(card.dataset.values)[name]);
            }
            return found;
        })()"""
    )
    for name, rising in (
        ("psnr worst", True),
        ("psnr best", False),
        ("warp-error worst", False),
        ("warp-error best", True),
    ):
        assert len(values[name]) == 5
        assert values[name] == sorted(values[name], reverse=not rising), name

    paper = "getComputedStyle(document.body).backgroundColor"
    colours = []
    for _ in ("light", "dark"):
        browser.run("document.getElementById('theme').click()")
        colours.append(browser.run(paper))
    assert colours[0] != colours[1]
    assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert browser.run("[...document.querySelectorAll('svg.plot')].every((svg) => svg.clientWidth > 200)")
    assert not [event for event in browser.events if event.get("method") in NOISE]
    urls = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert all(url.startswith(("file:", "data:")) for url in urls)


def test_without_scripts_the_tables_figures_and_videos_are_there(browser: Browser, page: Path):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page)
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    for selector, count in (
        ("table.metrics tbody tr", 4),
        ("video[controls]", 15),
        ("svg.plot", 6),
        (".tools[hidden]", 1),
        ("#theme[hidden]", 1),
    ):
        found = browser.call("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"]
        assert len(found) == count, selector
    (table,) = browser.call("DOM.querySelectorAll", nodeId=root, selector="table.metrics")["nodeIds"]
    box = browser.call("DOM.getBoxModel", nodeId=table)["model"]
    assert box["width"] > 400
    assert box["height"] > 200
