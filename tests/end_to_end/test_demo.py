"""The page in a real browser: an image is uploaded, a prediction comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from googlenet import Predictor, TrainingResult
from tests.conftest import bundled
from tests.end_to_end.conftest import needs_chromium

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def address(trained: TrainingResult) -> Iterator[str]:
    command = [sys.executable, "-m", "googlenet", "demo", str(trained.folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("open http://127.0.0.1:"), line
        yield line.split()[1]
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(permissions=["camera"])
    page.set_default_timeout(60_000)
    yield page
    page.close()


def test_an_uploaded_image_is_predicted(page: Page, address: str, trained: TrainingResult, tmp_path: Path) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    image = tmp_path / "boot.png"
    Image.fromarray(bundled("t10k-images-idx3-ubyte")[0]).resize((280, 280)).save(image)
    page.goto(address)
    page.set_input_files("input[type=file]", image)
    label = page.get_by_test_id("label-output-value")
    expect(label).to_be_visible(timeout=60_000)
    expected = Predictor(trained.model, precision="fp32").predict(image)
    assert label.inner_text().strip() == expected.classes[0]
    expect(page.get_by_text(f"{expected.probabilities[0]:.0%}", exact=True).first).to_be_visible()
    # the image, and where the network looked
    expect(page.locator("img[src*='/file=']")).to_have_count(2, timeout=60_000)
    hosts = {urlsplit(url).hostname for url in requests if url.startswith("http")}
    assert hosts == {"127.0.0.1"}


def test_a_damaged_file_is_reported_by_name(page: Page, address: str, tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(bundled("t10k-images-idx3-ubyte")[0]).save(good)
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:-200])
    page.goto(address)
    page.set_input_files("input[type=file]", cut)
    expect(page.get_by_text("cut.png:")).to_be_visible(timeout=60_000)


def test_the_webcam(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
    page.get_by_label("capture photo").click()
    expect(page.get_by_test_id("label-output-value")).to_be_visible(timeout=60_000)
