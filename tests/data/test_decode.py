"""Every kind of picture file, made by the test."""

from __future__ import annotations

import struct
import tempfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from googlenet import UserError
from googlenet.data import decode
from googlenet.data.decode import Resize, decode_image, decode_resized, read_header
from googlenet.data.transforms import InputSpec

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


def test_transparent_ground_is_white(tmp_path: Path) -> None:
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


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert decode_image(write(tmp_path / "x.png", Image.fromarray(values)), 1)[0].tolist() == [[0, 100, 255]]


def test_a_dark_sixteen_bit_picture_stays_dark(tmp_path: Path) -> None:
    values = np.array([[0, 100, 200]], np.uint16)
    assert decode_image(write(tmp_path / "x.png", Image.fromarray(values)), 1).max() <= 1


def test_cmyk_and_one_bit(tmp_path: Path) -> None:
    cmyk = write(tmp_path / "c.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 255)))
    assert decode_image(cmyk, 3).max() < 20
    assert decode_image(write(tmp_path / "b.png", Image.new("1", (8, 8), 1)), 1).min() == 255


def test_exif_orientation_is_obeyed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write(tmp_path / "x.jpg", Image.fromarray(GRADIENT), exif=exif, quality=100)
    turned = decode_image(path, 1)[0].numpy().astype(int)
    assert turned.shape == (24, 12)
    assert np.abs(turned - np.rot90(GRADIENT, -1)).max() <= 4


def test_whole_pixels_behind_damaged_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.png", Image.fromarray(GRADIENT), exif=b"Exif\0\0no metadata at all")
    assert np.array_equal(decode_image(path, 1)[0], GRADIENT)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = write(tmp_path / "turned.png", Image.fromarray(GRADIENT), exif=exif)
    monkeypatch.setattr(Image.Exif, "tobytes", Mock(side_effect=struct.error("a length that is none")))
    assert np.array_equal(decode_image(turned, 1)[0], np.rot90(GRADIENT, -1))


def test_a_photograph_with_another_behind_it_is_not_animated(tmp_path: Path) -> None:
    image = Image.fromarray(GRADIENT)
    path = tmp_path / "x.jpg"
    image.save(path, format="MPO", save_all=True, append_images=[image])
    assert read_header(path).frames == 1


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("L", (6, 6), shade) for shade in (40, 200)]
    path = write(tmp_path / "x.gif", frames[0], save_all=True, append_images=frames[1:])
    assert decode_image(path, 1).float().mean() == pytest.approx(40, abs=2)


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    assert decode_image(write(tmp_path / "x.png", Image.new("L", (1, 1), 9)), 3).flatten().tolist() == [9, 9, 9]


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in under 2 KB: its header alone tells."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def picture(format: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "is no picture"),
        ("text.jpg", b"hello, I am a text", "is no picture"),
        ("cut.jpg", picture("JPEG")[:700], "cannot be read"),
        ("cut.png", picture("PNG")[:700], "cannot be read"),
        ("bomb.png", bomb(), "more than 100,000,000"),
    ],
)
def test_what_is_no_picture(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        decode_image(tmp_path / name, 1)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_limits_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.png", Image.new("L", (20, 20)))
    monkeypatch.setattr(decode, "MAX_PIXELS", 399)
    with pytest.raises(UserError, match="20x20 pixels are more than 399"):
        decode_image(path, 1)
    with pytest.raises(UserError, match="no such file"):
        decode_image(tmp_path / "y.png", 1)
    with pytest.raises(UserError, match="is a folder"):
        decode_image(tmp_path, 1)
    with pytest.raises(UserError, match="1 or 3 channels"):
        decode_image(path, 2)


@settings(max_examples=60, deadline=None)
@given(format=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP"]), data=st.data())
def test_damage_anywhere_is_a_picture_or_a_clear_error(
    format: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(picture(format))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "x"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert decode_image(path, 3).shape[0] == 3
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(("size", "shape"), [((3000, 1000), (20, 60)), ((40, 50), (50, 40)), ((61, 4), (4, 60))])
def test_a_picture_of_at_most_so_many_pixels(size: tuple[int, int], shape: tuple[int, int], tmp_path: Path) -> None:
    path = write(tmp_path / "x.jpg", Image.new("RGB", size))
    assert decode_image(path, 1, at_most=60).shape == (1, *shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(37, 50), (640, 900), (1500, 1100)])
@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_a_resized_picture_is_what_decoding_and_resizing_give(
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
def test_resizing_differs_from_pillows_by_roundings(height: int, width: int, size: int, channels: int) -> None:
    noise = np.random.default_rng(height * 61 + width).integers(0, 256, (height, width, channels), dtype=np.uint8)
    picture = Image.fromarray(noise.squeeze(2) if channels == 1 else noise)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "x.png", picture)
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        middle = picture.crop((left, top, left + side, top + side))
        for resize, whole in (("stretch", picture), ("crop", middle)):
            theirs = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
            ours = decode_resized(path, channels, size, resize).permute(1, 2, 0).numpy()  # type: ignore[arg-type]
            difference = np.abs(ours - theirs.reshape(ours.shape))
            assert difference.max() <= 2 and difference.mean() < 0.2
