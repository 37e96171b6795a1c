"""A page to try a model on: drop or paste a picture, see what the network says of it and where it looked."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from googlenet.artifact.model_file import load
from googlenet.data.decode import decode_image
from googlenet.errors import UserError
from googlenet.insight.explain import explain
from googlenet.insight.explanation_picture import heat_picture
from googlenet.machine import resolve_device
from googlenet.network.googlenet import GoogLeNet

if TYPE_CHECKING:
    import gradio

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
    if top < 1:
        raise UserError(f"top is 1 or more, not {top}")
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
        picture.change(_answering(net), picture, [answer, looked], api_name="classify")
    return page


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    top: int = 5,
    most_megabytes: int = 20,
    device: str = "auto",
    ready: Callable[[str], None],
) -> None:
    """The page of `make_page` for a model file or run folder, until Ctrl-C.

    Args:
        model: a model file or run folder.
        host: the address to listen at; 127.0.0.1 can be reached from this machine alone.
        port: left out, the first free one from 7860.
        top: how many classes are named.
        most_megabytes: the largest file that may be uploaded. How many pixels, says `decode.MAX_PIXELS`.
        device: auto, cpu, cuda, cuda:1, mps.
        ready: called with the page's address when it can be opened.

    Raises:
        UserError: where Gradio is not installed, for a file that is no model, or an address that is not to be had.
    """
    if most_megabytes < 1:
        raise UserError(f"a file to upload has 1 MB or more, not {most_megabytes}")
    gr = _gradio()
    net = load(model, resolve_device(device))
    page = make_page(net, title=Path(model).resolve().name if Path(model).is_dir() else Path(model).stem, top=top)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            ssr_mode=False,
            quiet=True,
            footer_links=[],
            max_file_size=f"{most_megabytes}mb",
            theme=gr.themes.Default(**_FONTS),
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise UserError(f"{host}{f' port {port}' if port else ''} cannot be listened at: {error}") from error
    ready(address)
    page.block_thread()


def _answering(net: GoogLeNet) -> Callable[[str | None], tuple[dict[str, float] | None, NDArray[np.uint8] | None]]:
    gr = _gradio()

    def answer(file: str | None) -> tuple[dict[str, float] | None, NDArray[np.uint8] | None]:
        if file is None:
            return None, None
        try:
            explanation = explain(net, decode_image(file, net.info.input.channels))
        except UserError as error:
            raise gr.Error(str(error).replace(file, Path(file).name)) from error
        return dict(zip(explanation.classes, explanation.probabilities, strict=True)), heat_picture(explanation)

    return answer


def _gradio() -> Any:
    if not find_spec("gradio"):
        raise UserError("the page needs gradio, which is not installed: pip install 'googlenet[demo]'")
    import gradio

    return gradio
