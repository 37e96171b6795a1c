"""A web page to try a model: drop an image or use the webcam, see its classes and where the network looked."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from googlenet.device import require, resolve_device
from googlenet.errors import RunError, UserError, check_counts, reason_of
from googlenet.explanation.explain import explain, heat_map_image, trust_line
from googlenet.model.googlenet import GoogLeNet
from googlenet.weights.load import load, title_of
from googlenet.weights.model_file import model_info

if TYPE_CHECKING:
    import gradio

_FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
"""The browser's own: the page requests nothing from other machines."""
PER_MINUTE = 240
"""Requests that a client may send per minute besides reading the page; a prediction takes three."""
_MAX_WAITING = 32  # predictions
_MAX_CLIENTS = 1000  # to remember at once


def serve(
    model: str | Path, *, host: str = "127.0.0.1", port: int | None = None, top: int = 5, max_upload_mb: int = 20,
    device: str = "auto", ready: Callable[[str], None],
) -> None:  # fmt: skip
    """Serve the page of `make_page` for a model file or run folder until Ctrl-C or SIGTERM.

    `host` 127.0.0.1 is reachable from this machine only; `port` None is the first free one from 7860; `ready` is called
    with the address. Raises `UserError` if Gradio is missing, an argument is invalid, or the port is not free, and
    `RunError` if the page cannot be opened for another reason.
    """
    check_counts(max_upload_mb=max_upload_mb)
    require("gradio", "googlenet demo")
    import gradio

    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"--port must be 1 to 65535, not {port}")
    for candidate in range(7860, 7960) if port is None else (port,):  # Gradio itself would try them for minutes
        try:
            socket.create_server((host, candidate)).close()
        except OSError as error:
            reason = reason_of(error)
        else:
            break
    else:
        raise UserError(
            f"cannot listen on {host} port {port or '7860 to 7959'} ({reason}): use another --host or --port"
        )
    net = load(model, resolve_device(device))
    handler_before = signal.getsignal(signal.SIGTERM)
    # Gradio checks that its page answers, which a proxy cannot reach
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "localhost", "127.0.0.1", host
    if in_main_thread := threading.current_thread() is threading.main_thread():  # SIGTERM deletes the uploads too
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="googlenet-demo-") as uploads,
            _environment(GRADIO_TEMP_DIR=uploads, no_proxy=",".join(filter(None, direct))),
        ):
            page = make_page(net, title=title_of(model), top=top)
            page.queue(max_size=_MAX_WAITING)
            limits = {"max_file_size": f"{max_upload_mb}mb", "share": False, "ssr_mode": False,
                      "app_kwargs": {"middleware": [(Limits, (Path(uploads),), {})]}}  # fmt: skip
            style = {"theme": gradio.themes.Default(**_FONTS), "footer_links": [], "quiet": True}
            try:
                _, address, _ = page.launch(
                    server_name=host, server_port=candidate, prevent_thread_lock=True, **limits, **style
                )
            except Exception as error:  # Gradio, its server and its HTTP client raise errors of many types
                raise RunError(f"the page cannot be opened on {host} port {candidate}: {reason_of(error)}") from error
            try:
                ready(address)
                page.block_thread()
            finally:
                page.close(verbose=False)
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, handler_before)


class Limits:
    """ASGI middleware: refuses to fetch other addresses, more than `PER_MINUTE` uploads or predictions of a client, and
    uploads while those before fill the disk."""

    def __init__(self, app: Any, uploads: Path, per_minute: int = PER_MINUTE, max_bytes: int = 2**30) -> None:
        self.app, self.uploads, self.per_minute, self.max_bytes = app, uploads, per_minute, max_bytes
        self._recent: dict[str, deque[float]] = {}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        status = self._refusal(scope) if scope["type"] == "http" else None
        if status is None:
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def _refusal(self, scope: dict[str, Any]) -> int | None:
        """The status of the answer to a request that is refused."""
        path = scope["path"]
        if "/proxy=" in path or re.search(r"/file[=/]\w+:", path):  # Gradio would fetch the address
            return 403
        if scope["method"] != "POST":
            return None
        if path.endswith("/upload") and _bytes_in(self.uploads) > self.max_bytes:
            return 507
        now, client = time.monotonic(), (scope.get("client") or ("",))[0]
        recent = self._recent.setdefault(client, deque())
        while recent and recent[0] < now - 60:
            recent.popleft()
        if len(recent) >= self.per_minute:
            return 429
        recent.append(now)
        if len(self._recent) > _MAX_CLIENTS:
            self._recent = {name: times for name, times in self._recent.items() if times and times[-1] > now - 60}
        return None


def _bytes_in(folder: Path) -> int:
    """What the files in a folder take, some of which are deleted meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """These environment variables inside, and what they were before at the end."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def make_page(net: GoogLeNet, *, title: str, top: int = 5) -> gradio.Blocks:
    """A Gradio page that classifies and explains one image at a time, and shows the `top` most probable classes."""
    check_counts(top=top)
    import gradio

    info = model_info(net)

    def classify(file: str | None) -> tuple[dict[str, float] | None, Any, str, str]:
        if file is None:
            return None, None, "", ""
        try:
            explanation = explain(net, file)
        except UserError as error:
            raise gradio.Error(str(error).replace(file, Path(file).name), print_exception=False) from error
        shares = dict(zip(explanation.classes, explanation.probabilities, strict=True))
        notice = "**This image looks like none of the classes.**" if explanation.known is False else ""
        return shares, heat_map_image(explanation), trust_line(explanation.trust), notice

    # Uploads and heat maps are deleted after an hour
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.Markdown(f"# {title}\nClasses: {', '.join(info.classes)}.")
        with gradio.Row():
            image = gradio.Image(
                label="Image: drop it here, paste it, or take it with the webcam",
                type="filepath",
                image_mode=None,  # the file as it is: `decode_image` decodes it
                sources=["upload", "webcam", "clipboard"],
                buttons=[],
            )
            with gradio.Column():
                notice = gradio.Markdown()
                label = gradio.Label(label="Prediction", num_top_classes=top)
                heat_map = gradio.Image(
                    label="Where the network looked: warm colors support the prediction",
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                )
                trust = gradio.Markdown()
        _accept_uploads_only(image)
        image.change(classify, image, [label, heat_map, trust, notice], api_name="classify")
    return page


def _accept_uploads_only(image: gradio.Image) -> None:
    """Make an image component reject anything but an uploaded file, because the limits apply to uploads only: a URL,
    which Gradio would fetch, or an image inside a request, which it would decode and store."""
    import gradio

    preprocess, move = image.preprocess, image.async_move_resource_to_block_cache

    def preprocess_upload(payload: Any) -> Any:
        if payload is not None and (payload.path is None or str(payload.url or "").startswith("data:")):
            raise gradio.Error("upload the image as a file", print_exception=False)
        return preprocess(payload)

    async def move_upload(path: Any) -> Any:
        if str(path).lower().startswith(("http://", "https://")):
            raise gradio.Error("upload the image as a file", print_exception=False)
        return await move(path)

    image.preprocess = preprocess_upload
    image.async_move_resource_to_block_cache = move_upload
