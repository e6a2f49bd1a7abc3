"""A real browser for the pages that a run leaves: the system's Chromium, without a network.

    def test_it_opens(visit):
        page = visit(path)          # a Playwright page
        ...

A test fails when its page asks for anything but itself and data: URIs, or writes an error to the console.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-default-apps", "--disable-sync", "--no-first-run", "--mute-audio", "--disable-dev-shm-usage",
         "--autoplay-policy=no-user-gesture-required"]  # fmt: skip
"""No sandbox: containers run as root. Autoplay: a test may start a player without a click."""

Visit = Callable[..., Page]


@pytest.fixture(scope="module")  # no longer: while it lives, nothing else in this process can run an event loop
def chromium() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium (Debian: make system)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Visit]:
    """``visit(path, width=1280, height=900, dark=False, scripts=True)`` → the page, opened from the disk."""
    faults: list[str] = []
    contexts = []

    def no_network(route: Route) -> None:
        url = route.request.url
        if url.startswith(("file:", "data:")):
            route.continue_()
            return
        faults.append(f"it asks for {url[:200]}")
        route.abort()

    def opened(path: Path, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": height}, offline=True,
                                       color_scheme="dark" if dark else "light", reduced_motion="reduce",
                                       java_script_enabled=scripts)  # fmt: skip
        contexts.append(context)
        context.set_default_timeout(120_000)
        context.route("**/*", no_network)
        page = context.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(path.absolute().as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults, faults
