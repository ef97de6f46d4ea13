"""A headless Chromium for tests: found on this machine, driven through a pipe, so that no socket is opened."""

import contextlib
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextlib.contextmanager
def open_chromium():
    """Yield the browser; skip, saying what is missing, where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium is installed: none of {', '.join(NAMES)} is in the PATH")
    with sync_api.sync_playwright() as driver:
        # Its sandbox does not start for root, as whom containers run. The pages it opens are those of the tests.
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
