"""Published weights known by name: what they are, where they come from, and the copy in the cache."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from googlenet.console import log
from googlenet.download import DownloadError, download, mirrored
from googlenet.errors import UserError
from googlenet.files import cache_dir


@dataclass(frozen=True)
class Published:
    """A file of weights that someone published."""

    name: str
    description: str
    source: str  # the page that the other facts are from
    license: str
    top1: float  # accuracy on ImageNet's validation images, one central crop, as the source states it
    size: int  # bytes
    url: str
    sha256: str  # in hexadecimal, or its first digits where the source names only these

    @property
    def path(self) -> Path:
        """The file in the cache, whether it is there or not."""
        return cache_dir() / "weights" / self.url.rpartition("/")[2]

    def fetch(self) -> Path:
        """The verified file in the cache, downloaded if it is missing or damaged.

        Raises `DownloadError` if it cannot be downloaded.
        """
        path = self.path
        if path.exists():
            try:
                self.verify(path)
                return path
            except UserError as error:
                log.warning("%s; downloading it again", error)
        try:
            download(mirrored(self.url), path, self.verify)
        except DownloadError as error:
            raise DownloadError(f"{error}; or get {path.name} another way and copy it to {path.parent}") from error
        return path

    def verify(self, path: Path) -> None:
        """Raises `UserError` unless the file has the published digest."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(self.sha256):
            raise UserError(f"{path} is damaged or another file: its SHA-256 is not the published one")

    def to_dict(self) -> dict[str, Any]:
        """The fields, and `cached`: the path of the file in the cache, or None."""
        return {**asdict(self), "cached": str(self.path) if self.path.exists() else None}


_ENTRIES = (
    Published(
        name="imagenet",
        description="torchvision's googlenet, converted from TensorFlow: batch norm, 3x3 third branch",
        source="https://github.com/pytorch/vision/blob/main/torchvision/models/googlenet.py",
        license="BSD-3-Clause",
        top1=0.69778,
        size=round(49.731 * 2**20),  # stated in MiB
        url="https://download.pytorch.org/models/googlenet-1378be20.pth",
        sha256="1378be20",
    ),
    Published(
        name="imagenet-v3",
        description="torchvision's inception_v3, converted from TensorFlow: Inception v3, for 299x299",
        source="https://github.com/pytorch/vision/blob/main/torchvision/models/inception.py",
        license="BSD-3-Clause",
        top1=0.77294,
        size=round(103.903 * 2**20),  # stated in MiB
        url="https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
        sha256="0cc3c7bd",
    ),
    Published(
        name="bvlc",
        description="Inception v1 of the ONNX model zoo, converted from Caffe: the paper's network",
        source="https://github.com/onnx/models/tree/main/validated/vision/classification/inception_and_googlenet/inception_v1",
        license="MIT",
        top1=0.6723,  # stated for inception-v1-12.onnx, the same network in a later format
        size=28_020_356,
        # Where the zoo's files went when GitHub's copies were removed in July 2025
        url="https://huggingface.co/onnxmodelzoo/inception-v1-9/resolve/main/inception-v1-9.onnx",
        sha256="f8b7bb4040377b83089eef98800a15303325ed75ced468a8972a87e0bc23692e",
    ),
)
CATALOG = {entry.name: entry for entry in _ENTRIES}
