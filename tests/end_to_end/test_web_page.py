"""The exported page in a real browser: opened from disk and from a static host, equal to `Predictor`."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

import googlenet
from googlenet import GoogLeNet, ImageSplit, Prediction, Predictor, RunError
from googlenet.data import fashion_mnist
from googlenet.inference.web import find_runtime
from tests.end_to_end.conftest import check_screens, needs_chromium
from tests.networks import fitted, thin

pytestmark = needs_chromium
TOLERANCE = 0.01


@pytest.fixture(scope="session")
def runtime() -> Path:
    try:
        return find_runtime()
    except RunError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def split(small_files: tuple[Path, dict[str, str]]) -> ImageSplit:
    """Fashion-MNIST in color: the images in three shades."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fashion_mnist, "DIGESTS", small_files[1])
        test = googlenet.load_dataset("fashion-mnist", data_dir=small_files[0]).test
    shades = np.array([1.0, 0.8, 0.5]).reshape(3, 1, 1)
    images = (test.images.numpy().repeat(3, axis=1) * shades).astype(np.uint8)
    return ImageSplit(torch.from_numpy(images), test.labels)


@pytest.fixture(scope="module")
def net(split: ImageSplit) -> GoogLeNet:
    """It takes about half of these images for known."""
    net = fitted(split, fashion_mnist.CLASSES, 32, create=thin, resize="crop", crop_pct=0.875)
    rule = googlenet.evaluate(net, split, precision="fp32").fit_known("test")
    scores = rule.scores(net(net.info.input.prepare(split.images)).detach())
    net.info = dataclasses.replace(net.info, known=dataclasses.replace(rule, threshold=float(scores.median())))
    return net


@pytest.fixture(scope="module")
def folder(runtime: Path, net: GoogLeNet, split: ImageSplit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "web"
    return googlenet.export_web(net, output, runtime=runtime, int8=False, calibration_data=split).file


@pytest.fixture(scope="module")
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    """The page, opened from disk once, since starting the runtime takes longest. It must not complain."""
    complaints = list[str]()
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((folder / "index.html").as_uri())
    yield page
    assert not complaints
    page.close()


def status(page: Page) -> Locator:
    return page.get_by_role("status")


def classified(page: Page, file: Path) -> dict[str, float]:
    """The probabilities of the classes that the page shows for a file."""
    page.set_input_files("#file", file)
    expect(status(page)).to_have_text(re.compile(f"^{re.escape(file.name)}: classified"), timeout=60_000)
    items = page.locator("#result li").all()
    return {item.locator("span").first.inner_text(): float(item.get_attribute("data-probability")) for item in items}


def largest_difference(found: dict[str, float], expected: Prediction) -> float:
    wanted = dict(zip(expected.classes, expected.probabilities, strict=True))
    return max(abs(share - wanted[name]) for name, share in found.items())


def write_images(folder: Path, split: ImageSplit) -> list[Path]:
    """One image in every form that decoders treat differently."""
    pixels = split.images[:12].permute(0, 2, 3, 1).numpy()
    big = [Image.fromarray(image).resize((450, 301), Image.Resampling.BICUBIC) for image in pixels]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    clear = big[2].convert("RGBA")
    clear.putalpha(Image.fromarray(np.linspace(0, 255, 450 * 301).reshape(301, 450).astype(np.uint8)))
    big[0].save(folder / "plain.png")
    big[1].save(folder / "turned.jpg", exif=exif, quality=95)
    clear.save(folder / "transparent.png")
    big[3].convert("L").save(folder / "gray.jpg")
    big[4].convert("CMYK").save(folder / "cmyk.jpg")
    big[5].quantize(64).save(folder / "palette.gif")
    big[6].save(folder / "lossless.webp", lossless=True)
    big[7].resize((1203, 1601), Image.Resampling.BICUBIC).save(folder / "large.jpg")  # read at an eighth of its size
    big[8].resize((1100, 61)).save(folder / "wide.png")  # in two tiles
    Image.fromarray(np.asarray(big[9].convert("L")).astype(np.uint16) * 257).save(folder / "16 bits.png")
    Image.fromarray(pixels[10]).save(folder / "small.png")
    return sorted(folder.iterdir())


def test_it_predicts_as_the_predictor_does(page: Page, net: GoogLeNet, split: ImageSplit, tmp_path: Path) -> None:
    files, notices = write_images(tmp_path, split), set[bool]()
    for expected in Predictor(net, precision="fp32").predict(files, top=10):
        found = classified(page, Path(expected.file))
        assert len(found) == 5 and sorted(found.values(), reverse=True) == list(found.values())
        assert largest_difference(found, expected) < TOLERANCE, expected.file
        notices.add(is_unknown := page.locator("#unknown").is_visible())
        assert is_unknown == (expected.known is False), expected.file
    assert notices == {True, False}


def test_int8_on_a_static_host(
    browser: Browser, runtime: Path, net: GoogLeNet, split: ImageSplit, tmp_path: Path
) -> None:
    """Equal to the same file in ONNX Runtime; nothing but the three files is requested."""
    few = ImageSplit(split.images[:40], split.labels[:40])
    folder = googlenet.export_web(net, tmp_path / "web", runtime=runtime, calibration_data=few, force=True).file
    packed = (folder / "model.js").read_text(encoding="ascii").split('"')[1]
    (tmp_path / "model.onnx").write_bytes(gzip.decompress(base64.b64decode(packed)))
    file = tmp_path / "boot.png"
    Image.fromarray(split.images[0].permute(1, 2, 0).numpy()).save(file)
    (expected,) = Predictor(tmp_path / "model.onnx", backend="onnxruntime").predict([file], top=10)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page, requests = browser.new_page(), list[str]()
        page.on("request", lambda request: requests.append(request.url))
        address = f"http://127.0.0.1:{server.server_port}/"
        page.goto(address)
        found = classified(page, file)
        page.close()
        server.shutdown()
    assert largest_difference(found, expected) < TOLERANCE
    sent = {url for url in requests if not url.startswith("blob:")}
    assert sent == {address, f"{address}runtime.js", f"{address}model.js"}


def test_a_file_that_is_not_an_image(page: Page, split: ImageSplit, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    page.set_input_files("#file", tmp_path / "notes.png")
    expect(status(page)).to_have_text(re.compile(r"^notes\.png is not an image"))
    expect(page.locator("#result li")).to_have_count(0)
    expect(page.locator("#unknown")).to_be_hidden()
    image = tmp_path / "good.png"
    Image.fromarray(split.images[0, 0].numpy()).save(image)
    assert classified(page, image)  # the page works on
    assert "\n" not in status(page).inner_text()


def test_pasted_and_dropped(page: Page, split: ImageSplit, tmp_path: Path) -> None:
    Image.fromarray(split.images[0, 0].numpy()).save(tmp_path / "x.png")
    content = base64.b64encode((tmp_path / "x.png").read_bytes()).decode()
    for event in ("paste", "drop"):
        page.evaluate(
            """([type, content]) => {
                const transfer = new DataTransfer(), bytes = Uint8Array.from(atob(content), each => each.charCodeAt(0));
                transfer.items.add(new File([bytes], `${type}.png`, {type: "image/png"}));
                const event = type === "paste" ? new ClipboardEvent(type, {clipboardData: transfer, bubbles: true})
                    : new DragEvent(type, {dataTransfer: transfer, bubbles: true});
                document.body.dispatchEvent(event);
            }""",
            [event, content],
        )
        expect(status(page)).to_have_text(re.compile(rf"^{event}\.png: classified"))
    page.evaluate("document.body.dispatchEvent(new ClipboardEvent('paste', {bubbles: true}))")
    expect(status(page)).to_have_text(re.compile("clipboard"))


def test_the_camera(page: Page) -> None:
    page.context.grant_permissions(["camera"])
    page.locator("#camera").click()
    take = page.locator("#take")
    expect(take).to_be_focused()
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text(re.compile("picture: classified"))
    expect(page.locator("#result li")).to_have_count(5)
    page.locator("#camera").click()
    expect(take).to_be_hidden()
    page.context.clear_permissions()
    page.locator("#camera").click()
    expect(status(page)).to_have_text(re.compile("camera"))
    expect(take).to_be_hidden()


def test_it_fits_every_screen_and_is_used_with_the_keyboard(page: Page) -> None:
    check_screens(page, narrow=320)
    page.locator("#file").focus()
    page.keyboard.press("Tab")
    expect(page.locator("#camera")).to_be_focused()


@pytest.mark.parametrize("name", ["model.js", "runtime.js"])
def test_a_file_is_missing(name: str, browser: Browser, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "index.html", tmp_path)
    other = "runtime.js" if name == "model.js" else "model.js"
    (tmp_path / other).symlink_to(folder / other)
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    expect(status(page)).to_have_text(re.compile(f"^{re.escape(name)}.*missing"))
    page.close()
