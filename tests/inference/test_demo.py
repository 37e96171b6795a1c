"""What the page accepts, and where it listens; tests/end_to_end/test_demo.py opens it in a browser.

Gradio is imported where it is used: every test process would wait seconds for it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

import googlenet
from googlenet import TrainingResult, UserError
from googlenet.inference.demo import Limits, make_page, serve


@pytest.fixture
def image(trained: TrainingResult) -> Any:
    import gradio

    page = make_page(googlenet.load(trained.model), title="a model")
    return next(block for block in page.blocks.values() if isinstance(block, gradio.Image))


def test_a_url_is_not_fetched(image: Any) -> None:
    from gradio import Error

    with pytest.raises(Error):
        asyncio.run(image.async_move_resource_to_block_cache("HTTPS://example.org/huge.png"))


@pytest.mark.parametrize("payload", [{"url": "data:image/png;base64,AAAA"}, {"path": "x.png", "url": "data:,"}])
def test_an_image_inside_a_request_is_not_decoded(payload: dict[str, str], image: Any) -> None:
    from gradio import Error
    from gradio.data_classes import ImageData

    with pytest.raises(Error):
        image.preprocess(ImageData(**payload))


def test_invalid_arguments(trained: TrainingResult) -> None:
    def ready(_: str) -> None:
        pytest.fail("the page was opened")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for settings in ({"port": port}, {"port": 99999}, {"port": 0}, {"host": "192.0.2.1"}, {"host": "::1"}):
            with pytest.raises(UserError, match="port"):
                serve(trained.model, ready=ready, **settings)
    with pytest.raises(UserError, match="max_upload_mb"):
        serve(trained.model, ready=ready, max_upload_mb=0)
    with pytest.raises(UserError, match="top"):
        make_page(googlenet.load(trained.model), title="a model", top=0)


def test_the_process_is_left_as_it_was(trained: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopError(Exception):
        pass

    def stop(address: str) -> None:
        assert address.startswith("http://127.0.0.1:")
        for path in ("/etc/passwd", str(trained.model), "../../etc/passwd", "http://127.0.0.1:9/x"):
            with pytest.raises(HTTPError, match="403"):  # no other file is served, and none is fetched
                urlopen(f"{address}gradio_api/file={path}", timeout=20)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        raise StopError

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setattr(urllib.request, "_opener", None)  # else it keeps this proxy for later tests
    before = signal.getsignal(signal.SIGTERM)
    for folder in (None, "/elsewhere"):
        monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
        if folder:
            monkeypatch.setenv("GRADIO_TEMP_DIR", folder)
        with pytest.raises(StopError):
            serve(trained.model, ready=stop)
        assert "no_proxy" not in os.environ
        assert signal.getsignal(signal.SIGTERM) is before
        assert os.environ.get("GRADIO_TEMP_DIR") == folder


def test_limits(tmp_path: Path) -> None:
    served: list[str] = []

    async def page(scope: dict[str, Any], receive: Any, send: Any) -> None:
        served.append(scope["path"])

    def status(method: str, path: str, client: str = "a") -> int | None:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "client": (client, 1)}
        asyncio.run(limits(scope, None, send))
        return sent[0]["status"] if sent else None

    limits = Limits(page, tmp_path, per_minute=3, max_bytes=100)
    for path in ("/gradio_api/file=http://example.org/x", "/gradio_api/file/ftp:/x", "/gradio_api/proxy=https://x/"):
        assert status("GET", path) == 403
    assert not served
    (tmp_path / "an upload").write_bytes(bytes(101))
    assert status("POST", "/gradio_api/upload") == 507
    (tmp_path / "an upload").unlink()
    assert [status("POST", "/gradio_api/upload") for _ in range(5)] == [None, None, None, 429, 429]
    assert status("POST", "/gradio_api/upload", client="b") is None
    assert status("GET", "/gradio_api/file=/tmp/x.png") is None
    assert len(served) == 5
