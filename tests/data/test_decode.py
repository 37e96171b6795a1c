"""Image files of every kind, made by the tests, and images in memory."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from googlenet import RunError, UserError
from googlenet.data import decode
from googlenet.data.decode import (
    Resize,
    Source,
    decode_image,
    decode_images,
    decode_resized,
    image_files,
    read_header,
    walk,
)
from googlenet.data.transforms import InputSpec
from tests.data.conftest import deny_listing

GRADIENT = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (12, 1))


def write(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "gif", "jpg"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_formats(suffix: str, mode: str, tmp_path: Path) -> None:
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100}}.get(suffix, {})
    path = write(tmp_path / f"x.{suffix}", Image.fromarray(GRADIENT).convert(mode), **options)
    for channels in (1, 3):
        pixels = decode_image(path, channels)
        assert pixels.shape == (channels, 12, 24)
        assert np.abs(pixels[0].numpy().astype(int) - GRADIENT).max() <= 4


def test_transparency_becomes_white(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (200, 0, 0, 255)
    assert decode_image(write(tmp_path / "x.png", Image.fromarray(rgba)), 3)[:, 3, 3].tolist() == [255, 255, 255]
    assert decode_image(tmp_path / "x.png", 3)[:, 0, 0].tolist() == [200, 0, 0]
    gray_alpha = Image.fromarray(rgba).convert("LA")
    assert decode_image(write(tmp_path / "la.png", gray_alpha), 1)[0, 3, 3] == 255
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    write(tmp_path / "p.png", palette, transparency=1)
    assert decode_image(tmp_path / "p.png", 3)[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255]]
    sixteen = Image.fromarray(np.array([[0, 257 * 100]], np.uint16))
    assert decode_image(write(tmp_path / "16.png", sixteen, transparency=0), 1)[0].tolist() == [[255, 100]]


def test_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert decode_image(write(tmp_path / "x.png", Image.fromarray(values)), 1)[0].tolist() == [[0, 100, 255]]


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_floating_point_pixels(white: int, tmp_path: Path) -> None:
    values = np.array([[0, 0.2, 1]], np.float32) * white
    assert decode_image(write(tmp_path / "x.tif", Image.fromarray(values)), 1).tolist() == [[[0, 51, 255]]]


@pytest.mark.parametrize(
    "values",
    [
        np.float32([[0, -1]]),
        np.float32([[0, 70_000]]),
        np.float32([[0, np.nan]]),
        np.int32([[0, -1]]),
        np.int32([[70_000]]),
    ],
)
def test_pixels_whose_range_is_unknown(values: np.ndarray[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.tif"):
        decode_image(write(tmp_path / "x.tif", Image.fromarray(values)), 1)


def test_a_dark_16_bit_image_stays_dark(tmp_path: Path) -> None:
    values = np.array([[0, 100, 200]], np.uint16)
    assert decode_image(write(tmp_path / "x.png", Image.fromarray(values)), 1).max() <= 1


def test_cmyk_and_one_bit(tmp_path: Path) -> None:
    cmyk = write(tmp_path / "c.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 255)))
    assert decode_image(cmyk, 3).max() < 20
    assert decode_image(write(tmp_path / "b.png", Image.new("1", (8, 8), 1)), 1).min() == 255


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write(tmp_path / "x.jpg", Image.fromarray(GRADIENT), exif=exif, quality=100)
    turned = decode_image(path, 1)[0].numpy().astype(int)
    assert turned.shape == (24, 12)
    assert np.abs(turned - np.rot90(GRADIENT, -1)).max() <= 4


def test_damaged_metadata_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.png", Image.fromarray(GRADIENT), exif=b"Exif\0\0not metadata")
    assert np.array_equal(decode_image(path, 1)[0], GRADIENT)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = write(tmp_path / "turned.png", Image.fromarray(GRADIENT), exif=exif)
    monkeypatch.setattr(Image.Exif, "tobytes", Mock(side_effect=struct.error("bad length")))
    assert np.array_equal(decode_image(turned, 1)[0], np.rot90(GRADIENT, -1))


def test_a_jpeg_with_a_second_image_is_not_animated(tmp_path: Path) -> None:
    image = Image.fromarray(GRADIENT)
    path = tmp_path / "x.jpg"
    image.save(path, format="MPO", save_all=True, append_images=[image])
    assert read_header(path).frames == 1


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("L", (6, 6), shade) for shade in (40, 200)]
    path = write(tmp_path / "x.gif", frames[0], save_all=True, append_images=frames[1:])
    assert decode_image(path, 1).float().mean() == pytest.approx(40, abs=2)


def test_one_pixel_is_an_image(tmp_path: Path) -> None:
    assert decode_image(write(tmp_path / "x.png", Image.new("L", (1, 1), 9)), 3).flatten().tolist() == [9, 9, 9]


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in under 2 KB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def encoded(format: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.png", b""),
        ("text.jpg", b"hello, I am a text"),
        ("cut.jpg", encoded("JPEG")[:700]),
        ("cut.png", encoded("PNG")[:700]),
        ("bomb.png", bomb()),
    ],
)
def test_bad_files_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as raised:
        decode_image(tmp_path / name, 1)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="bytes"):
        decode_image(content, 1)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.png", Image.new("L", (20, 20)))
    monkeypatch.setattr(decode, "MAX_PIXELS", 399)
    with pytest.raises(UserError, match=r"20x20.*399.*GOOGLENET_MAX_PIXELS"):
        decode_image(path, 1)
    monkeypatch.setenv("GOOGLENET_MAX_PIXELS", "400")
    assert decode_image(path, 1).shape == (1, 20, 20)
    monkeypatch.setenv("GOOGLENET_MAX_PIXELS", "many")
    with pytest.raises(RunError, match="GOOGLENET_MAX_PIXELS"):
        decode_image(path, 1)
    monkeypatch.delenv("GOOGLENET_MAX_PIXELS")
    with pytest.raises(UserError, match="channels"):
        decode_image(path, 2)


@pytest.mark.parametrize(
    "kind", ["missing.png", "folder.png", "dangling.png", "loop.png", "pipe.png", "x" * 300, "a\0b"]
)
def test_paths_without_a_file_are_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    match kind:
        case "folder.png":
            path.mkdir()
        case "dangling.png":
            path.symlink_to(tmp_path / "nothing")
        case "loop.png":
            path.symlink_to("loop.png")
        case "pipe.png":
            os.mkfifo(path)
    with pytest.raises(UserError, match=re.escape(kind.replace("\0", r"\x00"))):
        decode_image(path, 1)


COLORS = np.random.default_rng(1).integers(0, 256, (30, 20, 3), dtype=np.uint8)


def test_images_in_memory_are_decoded_like_files(tmp_path: Path) -> None:
    for pixels in (COLORS, COLORS[:, :, 0]):
        image = Image.fromarray(pixels)
        path = write(tmp_path / "x.png", image)
        tensor = torch.from_numpy(pixels)
        sources: list[Source] = [
            str(path),
            path.read_bytes(),
            image,
            Image.open(path),
            pixels,
            pixels[::-1, ::-1][::-1, ::-1],
        ]
        sources += (
            [tensor.permute(2, 0, 1), tensor.permute(2, 0, 1).contiguous()]
            if pixels.ndim == 3
            else [tensor, tensor[None]]
        )
        for channels in (1, 3):
            expected, resized = decode_image(path, channels), decode_resized(path, channels, 16, "crop")
            for source in sources:
                assert torch.equal(decode_image(source, channels), expected)
                assert torch.equal(decode_resized(source, channels, 16, "crop"), resized)
                assert decode_image(source, channels, 15).shape == (channels, 15, 10)


def test_images_in_memory_are_not_changed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = BytesIO()
    Image.fromarray(COLORS).save(buffer, "PNG", exif=exif)
    image = Image.open(buffer)
    assert decode_image(image, 3, 15).shape == (3, 10, 15)
    assert image.size == (20, 30) and np.array_equal(np.asarray(image), COLORS)
    decode_image(array := COLORS.copy(), 3)[:] = 0
    assert np.array_equal(array, COLORS)


def test_arrays_with_transparency(tmp_path: Path) -> None:
    rgba = np.zeros((4, 5, 4), np.uint8)
    rgba[:2] = (200, 0, 0, 255)
    for source in (rgba, torch.from_numpy(rgba).permute(2, 0, 1)):
        assert decode_image(source, 3)[:, [0, 3], 0].T.tolist() == [[200, 0, 0], [255, 255, 255]]
    assert decode_image(np.full((4, 5, 1), 9, np.uint8), 1).unique().tolist() == [9]


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 9, 3), np.float32),
        np.zeros((8, 9), bool),
        np.zeros((8, 9, 2), np.uint8),
        np.zeros((3, 8, 9), np.uint8),
        np.zeros((8,), np.uint8),
        np.zeros((1, 8, 9, 3), np.uint8),
        np.zeros((0, 9), np.uint8),
        torch.zeros(3, 8, 9),
        torch.zeros(3, 8, 9, dtype=torch.bfloat16, requires_grad=True),
        torch.zeros(8, 9, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 9, dtype=torch.uint8),
    ],
)
def test_arrays_of_another_type_or_shape_are_named(wrong: np.ndarray | torch.Tensor) -> None:
    with pytest.raises(UserError, match=f"{re.escape(str(wrong.dtype))}.*{re.escape(str(tuple(wrong.shape)))}"):
        decode_image(wrong, 3)


@pytest.mark.parametrize("wrong", [None, 3, ["x.png"], BytesIO(b"")])
def test_other_objects_are_not_images(wrong: Any) -> None:
    with pytest.raises(UserError, match=type(wrong).__name__):
        decode_image(wrong, 3)


def test_warning_filters_are_left_alone() -> None:
    """In another process, since this one has imported the modules."""
    code = """
import pkgutil, warnings
import PIL.Image, numpy, torch, torch.utils.data, rich.progress, filelock, platformdirs
before = list(warnings.filters)
import googlenet.data
for module in pkgutil.iter_modules(googlenet.data.__path__, "googlenet.data."):
    __import__(module.name)
from googlenet.data.decode import decode_image
decode_image(PIL.Image.new("P", (8, 8)), 3)
assert warnings.filters == before, [entry for entry in warnings.filters if entry not in before]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@settings(max_examples=60, deadline=None)
@given(format=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"]), data=st.data())
def test_damage_anywhere_gives_an_image_or_a_clear_error(
    format: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(encoded(format))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "x"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert decode_image(path, 3).shape[0] == 3
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(("size", "shape"), [((3000, 1000), (20, 60)), ((40, 50), (50, 40)), ((61, 4), (4, 60))])
def test_the_longer_side_is_limited(size: tuple[int, int], shape: tuple[int, int], tmp_path: Path) -> None:
    path = write(tmp_path / "x.jpg", Image.new("RGB", size))
    assert decode_image(path, 1, max_side=60).shape == (1, *shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(37, 50), (640, 900), (1500, 1100)])
@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_decoding_to_a_size_is_the_same_as_decoding_and_resizing(
    channels: int, shape: tuple[int, int], resize: Resize, tmp_path: Path
) -> None:
    rows, columns = np.linspace(0, 9, shape[0])[:, None], np.linspace(0, 6, shape[1])[None]
    waves = np.stack([np.sin(rows * k + columns) for k in (1, 2, 3)], axis=-1) * 100 + 128
    path = write(tmp_path / "x.jpg", Image.fromarray(waves.astype(np.uint8)), quality=90)
    spec = InputSpec(channels, 96, (0.0,) * channels, (1.0,) * channels, resize, 0.875 if resize == "crop" else 1.0)
    square = decode_resized(path, channels, spec.decoded_size, resize)
    assert square.shape == (channels, spec.decoded_size, spec.decoded_size)
    resized = (spec.prepare(square[None])[0] * 255).round()
    expected = spec.prepare(decode_image(path, channels)[None])[0] * 255
    assert resized.shape == (channels, 96, 96)
    assert float((resized.float() - expected).abs().mean()) < 1
    assert float((resized.float() - expected).abs().max()) < 6


@given(height=st.integers(1, 60), width=st.integers(1, 60), size=st.integers(1, 40), channels=st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=60)
def test_resizing_differs_from_pillows_by_rounding(height: int, width: int, size: int, channels: int) -> None:
    noise = np.random.default_rng(height * 61 + width).integers(0, 256, (height, width, channels), dtype=np.uint8)
    image = Image.fromarray(noise.squeeze(2) if channels == 1 else noise)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "x.png", image)
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        middle = image.crop((left, top, left + side, top + side))
        for resize, whole in (("stretch", image), ("crop", middle)):
            theirs = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
            ours = decode_resized(path, channels, size, resize).permute(1, 2, 0).numpy()  # type: ignore[arg-type]
            difference = np.abs(ours - theirs.reshape(ours.shape))
            assert difference.max() <= 2 and difference.mean() < (0.2 if size > 3 else 0.6)


def test_images_are_decoded_in_order_and_errors_are_kept(tmp_path: Path) -> None:
    paths = []
    for number in range(9):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((20 + number, 30, 3), 20 * number, np.uint8)).save(paths[-1])
    paths[4].write_bytes(b"not an image")
    decoded = decode_images(paths, 3, 16)
    assert (decoded.images.shape, decoded.images.dtype) == ((9, 3, 16, 16), torch.uint8)
    assert list(decoded.errors) == [4]
    assert "4.png" in decoded.errors[4]
    assert not decoded.images[4].any()
    for number in set(range(9)) - {4}:
        assert torch.equal(decoded.images[number], decode_resized(paths[number], 3, 16))
    assert decode_images([], 1, 16).images.shape == (0, 1, 16, 16)


def test_files_and_folders_are_listed(images: Path, tmp_path: Path) -> None:
    (images / "notes.txt").write_text("")
    listed = list(image_files([images / "notes.txt", images, "missing.png", "x" * 300]))
    assert [path.name for path in listed] == [
        "notes.txt", "0.png", "1.png", "2.png", "3.png", "4.png", "broken.png", "missing.png", "x" * 300,
    ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        list(image_files([tmp_path / "empty"]))


def test_other_files_of_folders_are_counted_once_by_suffix(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.txt", "b.TXT", "README", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (images / name).write_text("")
    (images / "more").mkdir()
    (images / "more" / "c.raw").write_text("")
    (images / "more" / "0.JFIF").write_bytes((images / "0.png").read_bytes())
    decode.log.addHandler(caplog.handler)
    try:
        listed = list(image_files([images, images / "more", images / "a.txt"]))
        (line,) = caplog.messages
        assert ".txt 2" in line and ".raw 2" in line and "README 1" in line and " 5 " in line
        assert not any(name in line for name in (".db", ".ini", "DS_Store"))
        caplog.clear()
        (images / "more" / "c.raw").unlink()
        assert [path.name for path in image_files([images / "more"])] == ["0.JFIF"] and not caplog.messages
    finally:
        decode.log.removeHandler(caplog.handler)
    assert [path.name for path in listed].count("0.JFIF") == 2 and listed[-1].name == "a.txt"


def test_links_are_followed_and_cycles_are_not(tmp_path: Path) -> None:
    for name in ("a", "b", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.png").write_bytes(b"")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "to b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to a").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "elsewhere").symlink_to(tmp_path / "elsewhere")
    names = [str(path.relative_to(tmp_path / "a")) for path in walk(tmp_path / "a")]
    assert names == ["a.png", "elsewhere/elsewhere.png", "to b/b.png", "up/b/b.png", "up/elsewhere/elsewhere.png"]


def test_broken_links_are_listed_as_files(tmp_path: Path) -> None:
    links = {"loop": "loop", "loop.png": "loop.png", "ping": "pong", "pong": "ping", "dangling.png": "nothing"}
    links |= {"inside": "loop/x", "below a file": "file.png/x"}
    (tmp_path / "file.png").write_bytes(b"")
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    assert sorted(path.name for path in walk(tmp_path)) == sorted([*links, "file.png"])
    listed = list(image_files([tmp_path]))
    assert sorted(path.name for path in listed) == ["dangling.png", "file.png", "loop.png"]
    assert len(decode_images(listed, 1, 8).errors) == 3


def test_a_folder_that_cannot_be_listed_is_not_silently_skipped(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = images / "private"
    private.mkdir()
    deny_listing({"private"}, monkeypatch)
    assert private in walk(images)
    assert private in image_files([images])
    with pytest.raises(UserError, match="private"):
        decode_image(private, 1)


def kinds() -> list[tuple[str, Image.Image, dict[str, Any]]]:
    """Suffix, image and options of files in which something must be done to the pixels."""
    pixels = np.random.default_rng(0).integers(96, 160, (60, 90, 4), np.uint8)
    rgba = Image.fromarray(pixels)
    sixteen = Image.fromarray(pixels.view(np.uint16)[:, :, 0].copy())
    exif, turned = Image.Exif(), {"tiffinfo": {0x0112: 6}, "compression": "tiff_lzw"}
    exif[0x0112] = 6
    return [
        ("jpg", rgba.convert("RGB"), {"exif": exif, "quality": 95}), ("jpg", rgba.convert("CMYK"), {}),
        ("png", rgba, {"exif": exif}), ("png", sixteen, {}), ("tif", sixteen, turned), ("png", rgba.convert("LA"), {}),
        ("gif", rgba.convert("P"), {"transparency": 3}), ("png", rgba.convert("P"), {"transparency": 3}),
        ("png", rgba.convert("1"), {}), ("webp", rgba, {"exif": exif}),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(kinds())))
def test_images_in_memory_are_decoded_as_files_are(number: int, tmp_path: Path) -> None:
    suffix, image, options = kinds()[number]
    path = write(tmp_path / f"x.{suffix}", image, **options)
    for channels in (1, 3):
        expected = decode_resized(path, channels, 40)
        lazy, loaded = Image.open(path), Image.open(path)
        loaded.load()
        before = (loaded.size, loaded.mode, loaded.tobytes())
        for source in (path.read_bytes(), lazy, loaded):
            found = decode_resized(source, channels, 40)
            # A color JPEG file is decoded to gray without its colors, which rounds less often
            rounding = 2 if image.mode == "RGB" and channels == 1 else 0
            assert (found.int() - expected.int()).abs().max() <= rounding
        assert (loaded.size, loaded.mode, loaded.tobytes()) == before


def test_arrays_and_tensors_are_decoded_as_files_are(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (30, 50, 4), np.uint8)
    for pixels in (rgba, rgba[:, :, :3], rgba[:, ::-1, 0]):
        path = write(tmp_path / "x.png", Image.fromarray(np.ascontiguousarray(pixels)))
        tensor = torch.from_numpy(pixels.copy())
        for source in (pixels, tensor.permute(2, 0, 1) if pixels.ndim == 3 else tensor):
            assert torch.equal(decode_image(source, 3), decode_image(path, 3))


def test_a_large_jpeg_may_be_decoded_smaller(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jpg", Image.fromarray(GRADIENT).resize((2400, 1200)))
    assert decode_image(path, 1, min_side=150).shape == (1, 150, 300)
    assert decode_image(path, 1, min_side=151).shape == (1, 300, 600)
    assert decode_image(path, 1).shape == (1, 1200, 2400)


@pytest.mark.parametrize("size", [(28, 28, 224), (56, 56, 28), (375, 500, 224), (100, 75, 28), (20, 300, 40)])
def test_every_device_resizes_alike(size: tuple[int, int, int]) -> None:
    images = torch.randint(0, 256, (2, 3, *size[:2]), dtype=torch.uint8)
    expected = decode._resize(images, size[2], size[2])
    found = decode._resize_in_steps(images, size[2], size[2])
    assert found.dtype == torch.uint8
    different = (found.int() - expected.int()).abs()
    assert different.max() <= 1 and different.float().mean() <= 0.01  # by rounding


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_rotated_tiff_without_compression(orientation: int, dtype: type[np.generic], tmp_path: Path) -> None:
    """Pillow maps such a file into memory with the sides of the rotated image."""
    factor = 257 if dtype is np.uint16 else 1
    image = Image.fromarray(GRADIENT.astype(dtype) * dtype(factor))
    path = write(tmp_path / "x.tif", image, tiffinfo={0x0112: orientation})
    expected = np.rot90(GRADIENT, {3: 2, 6: -1}[orientation])
    assert np.array_equal(decode_image(path, 1)[0], expected)
