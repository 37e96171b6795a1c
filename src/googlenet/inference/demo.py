"""A page to try a model on: drop or paste a picture, see what the network says of it and where it looked."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from googlenet.data.decode import decode_image
from googlenet.device import resolve_device
from googlenet.errors import RunError, UserError, check_counts, reason_of
from googlenet.explanation.gradcam import MOST_PIXELS_A_SIDE, explain, heat_map_image
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.model_file import load

if TYPE_CHECKING:
    import gradio

_PORTS = range(7860, 7960)
_FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
"""The reader's own: the page asks no other machine for anything."""


def make_page(net: GoogLeNet, *, title: str, top: int = 5) -> gradio.Blocks:
    """A Gradio page that classifies and explains one picture at a time.

    Args:
        net: a network that `googlenet.load` or `googlenet.import_weights` returned.
        title: the heading.
        top: how many classes are named, the likeliest first.

    Raises:
        UserError: where Gradio is not installed, or for a `top` below 1.
    """
    check_counts(top=top)
    gr = _gradio()
    # What is uploaded and drawn is deleted an hour later
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# {title}\nKnows: {', '.join(net.info.classes)}.")
        with gr.Row():
            picture = gr.Image(
                label="A picture: drop it here, or paste it",
                type="filepath",
                image_mode=None,  # as it is: decoding is ours
                sources=["upload", "clipboard"],
                buttons=[],
            )
            with gr.Column():
                answer = gr.Label(label="What the network says", num_top_classes=top)
                looked = gr.Image(
                    label="What speaks for it: the warmer, the more",
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                )
        _take_uploads_alone(picture)
        picture.change(_answering(net), picture, [answer, looked], api_name="classify")
    return page


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    top: int = 5,
    max_upload_mb: int = 20,
    device: str = "auto",
    ready: Callable[[str], None],
) -> None:
    """The page of `make_page` for a model file or run folder, until Ctrl-C or SIGTERM.

    Args:
        model: a model file or run folder.
        host: the address to listen at, IPv4 or a name; 127.0.0.1 can be reached from this machine alone.
        port: left out, the first free one from 7860.
        top: how many classes are named.
        max_upload_mb: the largest file that may be uploaded. How many pixels, says `decode.MAX_PIXELS`.
        device: auto, cpu, cuda, cuda:1, mps.
        ready: called with the page's address when it can be opened.

    Raises:
        UserError: where Gradio is not installed, for a file that is no model, or an address that is not to be had.
        RunError: where the page cannot be opened for another reason.
    """
    if max_upload_mb < 1:
        raise UserError(f"a file to upload has 1 MB or more, not {max_upload_mb}")
    gr = _gradio()
    port = _free_port(host, port)
    net = load(model, resolve_device(device))
    title = Path(model).resolve().name if Path(model).is_dir() else Path(model).stem
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was uploaded goes away then too
    with tempfile.TemporaryDirectory(prefix="googlenet-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        page = make_page(net, title=title, top=top)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                ssr_mode=False,
                quiet=True,
                footer_links=[],
                max_file_size=f"{max_upload_mb}mb",
                theme=gr.themes.Default(**_FONTS),
                prevent_thread_lock=True,
            )
        except Exception as error:  # whatever Gradio, its server and its own request to it raise
            raise RunError(f"the page cannot be opened at {host} port {port}: {reason_of(error)}") from error
        ready(address)
        page.block_thread()


def _free_port(host: str, port: int | None) -> int:
    """The port wanted, or the first that is free: Gradio itself would try one after the other for minutes."""
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"a port is 1 to 65535, not {port}")
    reason = ""
    for candidate in _PORTS if port is None else (port,):
        try:
            socket.create_server((host, candidate)).close()
        except OSError as error:
            reason = reason_of(error)
        else:
            return candidate
    wanted = f"{_PORTS[0]} to {_PORTS[-1]}" if port is None else str(port)
    raise UserError(f"{host} port {wanted} cannot be listened at: {reason}; name another --host or --port")


def _take_uploads_alone(picture: Any) -> None:
    """Have an image component refuse what is no uploaded file: an address, which Gradio would fetch, or a picture
    inside a request, which it would decode and keep. The limits of uploads do not hold for these."""
    gr = _gradio()
    preprocess, move = picture.preprocess, picture.async_move_resource_to_block_cache

    def preprocess_uploaded(payload: Any) -> Any:
        if payload is not None and (payload.path is None or str(payload.url or "").startswith("data:")):
            raise gr.Error("upload the picture as a file")
        return preprocess(payload)

    async def move_uploaded(path: Any) -> Any:
        if str(path).lower().startswith(("http://", "https://")):
            raise gr.Error("upload the picture as a file")
        return await move(path)

    picture.preprocess = preprocess_uploaded
    picture.async_move_resource_to_block_cache = move_uploaded


def _answering(net: GoogLeNet) -> Callable[[str | None], tuple[dict[str, float] | None, NDArray[np.uint8] | None]]:
    gr = _gradio()

    def answer(file: str | None) -> tuple[dict[str, float] | None, NDArray[np.uint8] | None]:
        if file is None:
            return None, None
        try:
            explanation = explain(net, decode_image(file, net.info.input.channels, at_most=MOST_PIXELS_A_SIDE))
        except UserError as error:
            raise gr.Error(str(error).replace(file, Path(file).name)) from error
        return dict(zip(explanation.classes, explanation.probabilities, strict=True)), heat_map_image(explanation)

    return answer


def _gradio() -> Any:
    if not find_spec("gradio"):
        raise UserError("the page needs gradio, which is not installed: pip install gradio")
    import gradio

    return gradio
