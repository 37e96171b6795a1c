"""What the page lets in, and where it listens; tests/end_to_end/test_demo.py has it in a browser."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import gradio
import pytest
from gradio.data_classes import ImageData

from googlenet import UserError
from googlenet.inference.demo import make_page, serve
from googlenet.training.loop import TrainingResult
from tests.explanation.pass_through import pass_through


@pytest.fixture
def picture() -> Any:
    page = make_page(pass_through("bn", 32), title="a model")
    return next(block for block in page.blocks.values() if isinstance(block, gradio.Image))


def test_an_address_is_not_fetched(picture: Any) -> None:
    with pytest.raises(gradio.Error, match="as a file"):
        asyncio.run(picture.async_move_resource_to_block_cache("HTTPS://example.org/huge.png"))


@pytest.mark.parametrize("payload", [{"url": "data:image/png;base64,AAAA"}, {"path": "x.png", "url": "data:,"}])
def test_a_picture_inside_a_request_is_not_decoded(payload: dict[str, str], picture: Any) -> None:
    with pytest.raises(gradio.Error, match="as a file"):
        picture.preprocess(ImageData(**payload))


def test_an_address_that_is_not_to_be_had_is_told_at_once(trained: TrainingResult) -> None:
    def ready(_: str) -> None:
        pytest.fail("it was opened")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for settings in ({"port": port}, {"port": 99999}, {"port": 0}, {"host": "192.0.2.1"}, {"host": "::1"}):
            with pytest.raises(UserError, match="port"):
                serve(trained.model, ready=ready, **settings)
    with pytest.raises(UserError, match="1 MB"):
        serve(trained.model, ready=ready, max_upload_mb=0)
    with pytest.raises(UserError, match="top is 1"):
        make_page(pass_through("bn", 32), title="a model", top=0)
