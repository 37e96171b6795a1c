"""The programs in examples/ that run here; examples/README.md names the others."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from googlenet import Predictor, TrainingResult

EXAMPLES = Path(__file__).parents[2] / "examples"


def post(address: str, content: bytes) -> dict[str, Any]:
    """The answer to a form with one file."""
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    request = urllib.request.Request(
        address, head + content + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_litserve(trained: TrainingResult, images: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, EXAMPLES / "litserve_server.py", trained.folder, str(port)]
    log = images / "log"
    with log.open("w") as output:
        server = subprocess.Popen(command, start_new_session=True, stdout=output, stderr=output)
        try:
            address, content = f"http://127.0.0.1:{port}/predict", (images / "0.png").read_bytes()
            for _ in range(1800):  # until it listens
                try:
                    answer = post(address, content)
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert server.poll() is None, log.read_text()
                    time.sleep(0.1)
            wrong = post(address, b"no image")
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    (expected,) = Predictor(trained.model).predict([images / "0.png"])
    assert tuple(answer["classes"]) == expected.classes
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-3)
    assert wrong["error"] and not wrong["classes"]
