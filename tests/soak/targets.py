"""Files that `googlenet` reads, each with real examples, a way to damage them, and what reading them is."""

from __future__ import annotations

import contextlib
import copy
import csv
import functools
import io
import json
import shutil
import socket
import threading
import tomllib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import tomli_w
import torch
from PIL import Image

import googlenet
from googlenet import RunFolder, UserError
from googlenet.data import fashion_mnist, store
from googlenet.data.decode import decode_resized, read_header
from googlenet.data.store import Content, Decoding, open_store
from googlenet.data.table import list_table
from googlenet.download import download
from googlenet.evaluation.card import model_card
from googlenet.evaluation.html import read_run, write_run_report
from googlenet.files import cache_dir
from googlenet.recipe import load_recipe, recipe_names, stored_recipe
from googlenet.training.processes import make_accelerator
from googlenet.training.setup import Trainer
from googlenet.weights.convert import import_weights
from googlenet.weights.model_file import read_model
from googlenet.weights.readers import read_tensors
from tests.conftest import bundled, write_photos
from tests.soak import mutations
from tests.soak.mutations import changed_value, damaged, damaged_json
from tests.training.helpers import small_net
from tests.weights.references import frozen_graph, message, mindspore_checkpoint

SIDE = 28
MAX_PIXELS = 4_000_000
"""`$GOOGLENET_MAX_PIXELS` while files are tried: what an image may take follows from it."""


class Target(NamedTuple):
    """One kind of file."""

    damage: Callable[[Random, Path], Path]
    """Write a damaged file, or folder, to a folder, and return its path."""
    read: Callable[[Path], object]
    share: int = 4  # of the cases, relative to other targets


class Materials:
    """Intact files, made once from real images and a trained run."""

    def __init__(self, run: Path, scratch: Path) -> None:
        self.run, self.scratch = run, scratch
        self.canary = str(scratch / "canary")
        self.photos = scratch / "photos"
        write_photos(self.photos, of_each=6)
        self.images = bundled("t10k-images-idx3-ubyte")
        self.model, self.trainer = self._model(), self._trainer()
        self.checkpoint = self._checkpoint()

    def _model(self) -> bytes:
        """The model file of the run, with weights of 8 bits, so that a case takes milliseconds."""
        weights, text = safetensors.torch.load_file(self.run / "model.safetensors"), read_model_text(self.run)
        small = {name: w.to(torch.float8_e4m3fn) if w.is_floating_point() else w for name, w in weights.items()}
        return safetensors.torch.save(small, {"format": "pt", "googlenet": text})

    def _trainer(self) -> Trainer:
        recipe = load_recipe(
            "fast", data=self.photos, image_size=SIDE, batch_size=4, epochs=1.0, ema_decay=0.9, whiten=False,
            precision="fp32", plots=False,
        )  # fmt: skip
        return Trainer(recipe, make_accelerator(recipe), small_net(channels=1, classes=2))

    def _checkpoint(self) -> dict[str, Any]:
        images, targets, _ = next(self.trainer.batches(0))
        torch.nn.functional.cross_entropy(self.trainer.model(images), targets).backward()
        self.trainer.optimizer.step()
        return copy.deepcopy(self.trainer.state_dict())


def read_model_text(run: Path) -> str:
    with safetensors.safe_open(run / "model.safetensors", framework="pt") as file:
        return file.metadata()["googlenet"]


def targets(materials: Materials) -> dict[str, Target]:
    """All of them by name."""
    return {
        "model file": Target(functools.partial(_damage_model, materials), _read_model, 8),
        "weights (.pt)": Target(functools.partial(_damage_pickle, materials), _import),
        "weights (.safetensors)": Target(functools.partial(_damage_weights, materials), _import, 2),
        "weights (.onnx)": Target(functools.partial(_damage_bytes, _onnx(), "x.onnx"), _import),
        "weights (.pb)": Target(functools.partial(_damage_bytes, _graph(), "x.pb"), _import),
        "weights (.ckpt)": Target(functools.partial(_damage_bytes, _mindspore(), "x.ckpt"), _import),
        "checkpoint": Target(
            functools.partial(_damage_checkpoint, materials), functools.partial(_resume, materials), 8
        ),
        "recipe": Target(functools.partial(_damage_recipe, materials), load_recipe, 12),
        "run folder": Target(functools.partial(_damage_run, materials), _report, 4),
        "IDX": Target(functools.partial(_damage_idx, materials), _read_idx, 12),
        **{
            f"image ({suffix})": Target(functools.partial(_damage_image, materials, suffix), _read_image, 4)
            for suffix in _IMAGES
        },
        "table (.csv)": Target(functools.partial(_damage_csv, materials), list_table, 6),
        "table (.parquet)": Target(functools.partial(_damage_parquet, materials), list_table, 4),
        "image store": Target(functools.partial(_damage_store, materials), functools.partial(_open, materials), 4),
        "download": Target(_damage_answer, _download, 4),
    }


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _damage_bytes(content: bytes, name: str, draw: Random, folder: Path) -> Path:
    return _written(folder / name, damaged(content, draw))


# Model files


def _with_header(content: bytes, draw: Random, change: Callable[[Any, Random], Any]) -> bytes:
    """A safetensors file with another header."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(change(json.loads(content[8 : 8 + length]), draw)).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _damage_model(materials: Materials, draw: Random, folder: Path) -> Path:
    def other_text(header: Any, draw: Random) -> Any:
        text = header["__metadata__"]["googlenet"].encode()
        return {**header, "__metadata__": {"googlenet": damaged_json(text, draw).decode("utf-8", "replace")}}

    content = materials.model
    match draw.randrange(4):
        case 0:
            content = damaged(content[: len(content) if draw.random() < 0.1 else 100_000], draw)
        case 1:
            content = _with_header(content, draw, changed_value)
        case _:
            content = _with_header(content, draw, other_text)
    return _written(folder / "model.safetensors", content)


def _read_model(path: Path) -> None:
    net = read_model(path)
    info = net.info
    model_card(net, "owner/name")
    channels, size = info.input.channels, info.input.decoded_size
    if size <= 64:
        with torch.inference_mode():
            logits = net(info.input.prepare(torch.zeros(1, channels, size, size, dtype=torch.uint8)))
        assert logits.shape == (1, len(info.classes))
    googlenet.ModelInfo.from_json(info.to_json())


# Weights of other programs


def _import(path: Path) -> None:
    read_tensors(path)
    with contextlib.suppress(UserError):  # the example is a part of a network
        import_weights(path)


def _tensors() -> dict[str, torch.Tensor]:
    """A few weights of the tutorial's network under the names of several sources."""
    return {
        "inception3a.branch1.conv.weight": torch.rand(64, 192, 1, 1), "conv1.conv.weight": torch.rand(64, 3, 7, 7),
        "fc.weight": torch.rand(5, 1024), "fc.bias": torch.rand(5),
    }  # fmt: skip


def _damage_pickle(materials: Materials, draw: Random, folder: Path) -> Path:
    weights = _tensors()
    value = draw.choice((weights, {"state_dict": weights, "epoch": 3}, {"model": weights, "args": {"lr": [0.1]}}))
    if draw.random() < 0.1:
        return _written(folder / "x.pt", mutations.canary(materials.canary, draw))
    content = io.BytesIO()
    torch.save(changed_value(value, draw), content, _use_new_zipfile_serialization=draw.random() < 0.8)
    packed = content.getvalue()
    if packed[:2] == b"PK":
        packed = mutations.damaged_zip(packed, draw, materials.canary, lambda _, data, draw: damaged(data, draw))
    else:
        packed = damaged(packed, draw)
    return _written(folder / "x.pt", packed)


def _damage_weights(materials: Materials, draw: Random, folder: Path) -> Path:
    content = safetensors.torch.save(_tensors())
    content = damaged(content, draw) if draw.random() < 0.5 else _with_header(content, draw, changed_value)
    return _written(folder / "x.safetensors", content)


def _onnx() -> bytes:
    tensors = [
        (5, message((1, 64), (1, 3), (1, 7), (1, 7), (2, 1), (8, "conv1/7x7_s2_w_0"), (9, bytes(64 * 3 * 49 * 4)))),
        (5, message((1, 5), (1, 8), (2, 1), (4, bytes(160)), (8, "loss3/classifier_w_0"))),
        (5, message((1, 64), (1, 2), (1, 1), (1, 1), (2, 1), (8, "inception_3a/1x1_w_0"), (9, bytes(512)))),
    ]
    return message((1, 7), (7, message(*tensors)))


def _graph() -> bytes:
    return frozen_graph({"mixed3a_1x1_w": torch.rand(1, 1, 8, 4), "conv2d0_w": torch.rand(7, 7, 3, 4)})


def _mindspore() -> bytes:
    return mindspore_checkpoint({"inception3a.b1.conv.weight": torch.rand(8, 4, 1, 1), "x": torch.rand(50)}, slices=2)


# Checkpoints and run folders


def _damage_checkpoint(materials: Materials, draw: Random, folder: Path) -> Path:
    (folder / "checkpoints").mkdir()
    state, content = materials.checkpoint, io.BytesIO()
    torch.save(changed_value(state, draw) if draw.random() < 0.6 else state, content)
    packed = content.getvalue()
    if draw.random() < 0.5:
        packed = mutations.damaged_zip(packed, draw, materials.canary, lambda _, data, draw: damaged(data, draw))
    digest = sha256(packed).hexdigest()[:16] if draw.random() < 0.9 else "0" * 16
    names = ("last.pt", f"step-1-{digest}.pt", f"step-{10**30}-{digest}.pt")
    _written(folder / "checkpoints" / draw.choice(names), packed)
    return folder


def _resume(materials: Materials, path: Path) -> None:
    checkpoint = RunFolder(path).load_checkpoint()
    stored_recipe(checkpoint["recipe"])
    trainer = materials.trainer
    trainer.load_state_dict(checkpoint)
    if trainer.step < trainer.total_steps:
        images, targets, _ = next(trainer.batches(0))
        torch.nn.functional.cross_entropy(trainer.model(images), targets).backward()
        trainer.optimizer.step()


def _damage_recipe(materials: Materials, draw: Random, folder: Path) -> Path:
    name = draw.choice(recipe_names())
    text = (Path(googlenet.__file__).parent / "recipes" / f"{name}.toml").read_bytes()
    run = (materials.run / "recipe.toml").read_bytes()
    content = damaged(draw.choice((text, run)), draw, run)
    if draw.random() < 0.5:
        values = changed_value(tomllib.loads(run.decode()), draw)
        with contextlib.suppress(TypeError, AttributeError):  # values that TOML does not have
            content = tomli_w.dumps({str(key): value for key, value in values.items()}).encode()
    return _written(folder / "recipe.toml", content)


def _damage_run(materials: Materials, draw: Random, folder: Path) -> Path:
    names = ("recipe.toml", "metrics.jsonl", "evaluation.json", "environment.json", "predictions.csv")
    for name in names:
        shutil.copyfile(materials.run / name, folder / name)
    for name in draw.sample(names, draw.choice((1, 1, 2))):
        content = (folder / name).read_bytes()
        if name.endswith(".json"):
            content = damaged_json(content, draw)
        elif name == "metrics.jsonl" and draw.random() < 0.6:
            rows = changed_value([json.loads(line) for line in content.splitlines()], draw)
            content = b"".join(json.dumps(row).encode() + b"\n" for row in (rows if isinstance(rows, list) else [rows]))
        else:
            content = damaged(content, draw)
        (folder / name).write_bytes(content)
    return folder


def _report(path: Path) -> None:
    folder = RunFolder(path)
    write_run_report(read_run(path, folder.rows()))
    folder.rewind(3, 1)


# Images


def _damage_idx(materials: Materials, draw: Random, folder: Path) -> Path:
    content = fashion_mnist.dump_idx(materials.images[: draw.choice((0, 1, 20))])
    if draw.random() < 0.5:
        return _written(folder / "images.gz", mutations.damaged_gzip(content, draw))
    return _written(folder / "images", damaged(content, draw))


def _read_idx(path: Path) -> None:
    values = fashion_mnist.parse_idx(fashion_mnist.read_unpacked(path), 3, str(path))
    assert values.dtype == np.uint8 and values.ndim == 3


_IMAGES: dict[str, list[dict[str, Any]]] = {
    ".png": [{}, {"mode": "L"}, {"mode": "P", "transparency": 0}, {"mode": "I;16"}, {"mode": "RGBA"}, {"mode": "1"}],
    ".jpg": [{}, {"mode": "L"}, {"progressive": True}, {"mode": "CMYK"}, {"exif": "rotated"}, {"quality": 100}],
    ".webp": [{}, {"lossless": True}, {"mode": "RGBA"}, {"save_all": True, "append_images": "two"}],
    ".bmp": [{}, {"mode": "L"}, {"mode": "1"}, {"mode": "P"}],
    ".gif": [{}, {"mode": "L"}, {"save_all": True, "append_images": "two"}],
    ".tiff": [
        {}, {"mode": "L", "compression": "tiff_lzw"}, {"compression": "jpeg"}, {"compression": "tiff_adobe_deflate"},
        {"mode": "1", "compression": "group4"}, {"mode": "I;16"}, {"mode": "F"}, {"big_tiff": True},
        {"save_all": True, "append_images": "two"}, {"compression": "packbits", "mode": "CMYK"},
    ],
    ".avif": [{}, {"mode": "RGBA"}, {"exif": "rotated"}],
    ".heic": [{}, {"mode": "RGBA"}],
}  # fmt: skip


@functools.cache
def _image(suffix: str, number: int) -> bytes:
    """A real image, saved in one of the ways of its format."""
    options = dict(_IMAGES[suffix][number])
    image = Image.fromarray(bundled("t10k-images-idx3-ubyte")[number]).resize((40, 56)).convert("RGB")
    mode = options.pop("mode", "RGB")
    image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else image
    image = image if image.mode == mode else image.convert(mode)
    if options.get("exif") == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif.tobytes()
    if "append_images" in options:
        options["append_images"] = [image.rotate(90), image.rotate(180)]
    content = io.BytesIO()
    if suffix == ".heic":
        import pillow_heif

        pillow_heif.from_pillow(image).save(content)
    else:
        image.save(content, {".jpg": "JPEG", ".tiff": "TIFF"}.get(suffix, suffix[1:].upper()), **options)
    return content.getvalue()


def _damage_image(materials: Materials, suffix: str, draw: Random, folder: Path) -> Path:
    content = _image(suffix, draw.randrange(len(_IMAGES[suffix])))
    other = _image(suffix, draw.randrange(len(_IMAGES[suffix])))
    content = mutations.damaged_png(content, draw) if suffix == ".png" else damaged(content, draw, other)
    return _written(folder / f"x{suffix}", content)


def _read_image(path: Path) -> None:
    errors = []
    for read in (read_header, lambda file: decode_resized(file, 3, SIDE), lambda file: decode_resized(file, 1, SIDE)):
        try:
            read(path)
        except UserError as error:
            errors.append(error)
    if errors:
        raise errors[-1]


# Tables, and the image store


def _rows(materials: Materials) -> list[dict[str, str]]:
    files = sorted(materials.photos.rglob("*.png"))
    return [
        {"file": str(file), "class": file.parent.name, "split": "train" if number % 3 else "test", "camera": "left"}
        for number, file in enumerate(files)
    ]


def _damage_csv(materials: Materials, draw: Random, folder: Path) -> Path:
    rows, text = _rows(materials), io.StringIO()
    for row in draw.sample(rows, draw.choice((0, 0, 1, 3))):
        row[draw.choice(list(row))] = draw.choice(("", "../../etc/passwd", "a\0b", "\x1b[31m", "train", "x" * 200_000))
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    return _written(folder / "table.csv", damaged(content, draw) if draw.random() < 0.8 else content)


def _damage_parquet(materials: Materials, draw: Random, folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(_rows(materials))
    choice = draw.random()
    if choice < 0.1:  # a few kilobytes that unpack to gigabytes
        count = draw.choice((10**6, 3 * 10**7))
        repeated = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(count, np.int32)), ["x.png"])
        table = pyarrow.table({"file": repeated, "class": repeated})
    elif choice < 0.3:
        values = [draw.choice((1, None, 2.5, [1, 2], {"a": 1}, b"\xff", "a\nb")) for _ in range(1)] * len(table)
        table = table.set_column(draw.randrange(4), draw.choice(table.column_names), pyarrow.array(values))
    content = io.BytesIO()
    parquet.write_table(table, content, compression=draw.choice(("none", "snappy", "zstd", "gzip")))
    packed = content.getvalue()
    return _written(folder / "table.parquet", damaged(packed, draw) if choice > 0.05 else packed)


_DECODING = Decoding(1, SIDE, "stretch")


def _contents(materials: Materials) -> list[Content]:
    return [Content(sha256(file.read_bytes()).digest(), file) for file in sorted(materials.photos.rglob("*.png"))]


def _damage_store(materials: Materials, draw: Random, folder: Path) -> Path:
    contents = _contents(materials)
    shutil.rmtree(cache_dir(), ignore_errors=True)
    open_store(contents, contents, _DECODING)
    path = store._path(contents, _DECODING)
    name = draw.choice(("store.json", "pixels.npy", "digests.npy", "sums.npy", "sums.npy"))
    content = (path / name).read_bytes()
    if name == "store.json":
        content = damaged_json(content, draw)
    elif draw.random() < 0.3:
        values = np.load(io.BytesIO(content))
        odd = draw.choice((values.astype(np.float32), values[None], values[:1], values.astype(object), values.T))
        packed = io.BytesIO()
        np.save(packed, odd, allow_pickle=True) if draw.random() < 0.8 else np.savez(packed, odd)
        content = packed.getvalue()
    elif draw.random() < 0.05:
        content = mutations.canary(materials.canary, draw)
    else:
        content = damaged(content, draw)
    (path / name).write_bytes(content)
    index = path.parent.parent / "files.sqlite"
    if draw.random() < 0.3:
        paths = [content.path for content in contents]
        found = [(each, (1, 2, 3), b"digest", read_header(each)) for each in paths]
        store.FileIndex().add(found)
        index.write_bytes(damaged(index.read_bytes(), draw))
    return path


def _open(materials: Materials, path: Path) -> None:
    contents = _contents(materials)
    opened = open_store(contents, contents, _DECODING)
    opened.pixels[torch.tensor([opened.rows[content.digest] for content in contents])].float().mean()
    assert opened.sums is not None and opened.sums.shape == (len(opened.rows), 1, 2)
    store.list_stores()
    store.FileIndex().known([content.path for content in contents])


# Downloads


def _damage_answer(draw: Random, folder: Path) -> Path:
    body = draw.randbytes(5000)
    head = draw.choice(
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5000\r\nContent-Range: bytes 0-4999/5000\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", b"HTTP/1.1 416 Range Not Satisfiable\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
        )
    )  # fmt: skip
    content = head + body * draw.choice((0, 1, 1, 2, 2000))
    if draw.random() < 0.5:
        content = damaged(content[:6000], draw)
    if draw.random() < 0.2:
        (folder / "file.part.bin").write_bytes(draw.randbytes(draw.choice((0, 100, 5000))))
    (folder / "expected").write_text(sha256(body).hexdigest())
    return _written(folder / "answer", content)


@functools.cache
def _server() -> tuple[socket.socket, dict[str, bytes]]:
    """A server that sends the same bytes to whoever connects. It belongs to the process that asks first."""
    server, answer = socket.create_server(("127.0.0.1", 0)), {"content": b""}

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            try:
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer["content"])
            except OSError:  # whoever asked has left
                continue

    threading.Thread(target=serve, daemon=True).start()
    return server, answer


def _download(path: Path) -> None:
    server, answer = _server()
    answer["content"] = path.read_bytes()
    expected = path.with_name("expected").read_text()

    def verify(file: Path) -> None:
        if sha256(file.read_bytes()).hexdigest() != expected:
            raise UserError("another file")

    download(f"http://127.0.0.1:{server.getsockname()[1]}/file.bin", path.with_name("file.bin"), verify)
    verify(path.with_name("file.bin"))
