"""A real Chromium on the page: what it says on its console and whom it asks is kept, and it looks nothing up outside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ARGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
ARGS += ("--disable-component-update", "--disable-sync")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_MS = 120_000


def chromium() -> str:
    """Where it is installed; skips the test where it is not."""
    path = os.environ.get("SWARM_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on PATH, and SWARM_TEST_CHROMIUM names none")
    return path


@contextmanager
def started() -> Iterator[Browser]:
    """Within the block it runs, with a fresh profile."""
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGS))
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """One page in a context of its own."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.troubles: list[str] = []
        self._host = urlsplit(url).netloc
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.page.on("request", lambda request: self._asked(request.url))

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.troubles.append(f"console: {text}")

    def _asked(self, url: str) -> None:
        if urlsplit(url).netloc != self._host and not url.startswith(("data:", "blob:")):
            self.troubles.append(f"asked another host: {url}")

    def press(self, *keys: str) -> None:
        """Keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def tab_to(self, name: str, *, most: int = 60) -> None:
        """Go to the control of that name with the tabulator alone."""
        seen = []
        for _ in range(most):
            self.press("Tab")
            found = self.page.evaluate(
                "(() => { const e = document.activeElement;"
                " return (e.getAttribute('aria-label') || (e.labels && e.labels[0] && e.labels[0].innerText)"
                " || e.innerText || e.name || e.tagName).trim() })()"
            )
            if found == name or found.startswith(f"{name}\n"):
                return
            seen.append(found)
        raise AssertionError(f"the tabulator does not lead to {name!r}, but to {seen}")
