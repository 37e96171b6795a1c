"""Files of each format, of a wrong name, and with damaged metadata around intact pixels."""

from __future__ import annotations

import sys
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import EpsImagePlugin, ExifTags, Image, ImageFile, PngImagePlugin

from googlenet import UserError
from googlenet.data.decode import decode_image, decode_resized, read_header
from googlenet.data.formats import SUFFIXES

SMOOTH = np.add.outer(np.arange(0, 80, 2), np.arange(0, 150, 3)).astype(np.uint8)
COLORS = np.stack([SMOOTH, SMOOTH[::-1], 255 - SMOOTH], axis=-1)
TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6
FORMATS = {
    ".png": "PNG",
    **dict.fromkeys((".jpg", ".jpeg", ".jfif"), "JPEG"),
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".avif": "AVIF",
    **dict.fromkeys((".heic", ".heif"), "HEIF"),
}


def encoded(format: str, pixels: np.ndarray[Any, Any] = COLORS, mode: str = "RGB", **options: Any) -> bytes:
    """With the best quality that the format has."""
    image, buffer = Image.fromarray(pixels).convert(mode), BytesIO()
    if format == "HEIF":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(image).save(buffer, quality=100, chroma=444, **options)
    else:
        best = {"JPEG": {"quality": 100, "subsampling": 0}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
        image.save(buffer, format, **best.get(format, {"lossless": True} if format == "WEBP" else {}), **options)
    return buffer.getvalue()


def assert_close(pixels: torch.Tensor, expected: np.ndarray[Any, Any], tolerance: int = 8) -> None:
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - expected).max() <= tolerance


def test_every_suffix_has_a_format() -> None:
    assert FORMATS.keys() == SUFFIXES


@pytest.mark.parametrize("format", sorted(set(FORMATS.values())))
def test_round_trip(format: str, tmp_path: Path) -> None:
    """In a file of any name: the content decides."""
    tolerance = 80 if format == "GIF" else 8  # 256 colors
    content = encoded(format)
    assert_close(decode_image(content, 3), COLORS, tolerance)
    for name in ("x.jpg", "x.png", "x"):
        (tmp_path / name).write_bytes(content)
        assert torch.equal(decode_image(tmp_path / name, 3), decode_image(content, 3))
        assert read_header(tmp_path / name).size == (50, 40)
    assert_close(decode_image(encoded(format, SMOOTH, "L"), 1), SMOOTH[:, :, None])
    with pytest.raises(UserError, match="bytes"):
        decode_image(content[: len(content) * 2 // 3], 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_orientation(format: str) -> None:
    assert_close(decode_image(encoded(format, exif=TURNED.tobytes()), 3), np.rot90(COLORS, -1))


def test_kinds_of_tiff() -> None:
    values = SMOOTH.astype(np.uint16) * 257
    for compression in ("raw", "tiff_lzw", "tiff_deflate"):
        buffer = BytesIO()
        Image.fromarray(values).save(buffer, "TIFF", compression=compression)
        assert np.array_equal(decode_image(buffer.getvalue(), 1)[0], SMOOTH)
        pages = encoded("TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))], compression=compression)
        assert np.array_equal(decode_image(pages, 3).permute(1, 2, 0), COLORS)
        assert read_header("x", pages).frames == 2
    for format in ("TIFF", "JPEG"):
        assert_close(decode_image(encoded(format, COLORS, "CMYK"), 3), COLORS)


def test_other_formats_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads EPS by starting Ghostscript."""
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript := Mock(side_effect=OSError("started")))
    with pytest.raises(OSError, match="started"), Image.open(path) as image:
        image.load()
    ghostscript.reset_mock()
    with pytest.raises(UserError, match=r"x\.png"):
        decode_image(path, 3)
    ghostscript.assert_not_called()
    for content in (encoded("PPM"), encoded("TGA"), encoded("ICO"), b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(40)):
        with pytest.raises(UserError, match="PNG"):
            decode_image(content, 3)


def test_heic_without_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(encoded("HEIF"))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"x\.jpg.*googlenet\[heic\]"):
        decode_image(tmp_path / "x.jpg", 3)


def test_the_preview_in_a_heic_file_is_not_used() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    file, buffer = pillow_heif.from_pillow(Image.fromarray(noise)), BytesIO()
    file[0].info["thumbnails"] = [64]
    file.save(buffer, quality=90)
    preview = pillow_heif.HeifImageFile(BytesIO(buffer.getvalue()))
    preview.draft("RGB", (16, 16))
    assert preview.size == (64, 48)
    expected = decode_resized(decode_image(buffer.getvalue(), 3), 3, 8)
    assert torch.equal(decode_resized(buffer.getvalue(), 3, 8), expected)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "AVIF", "HEIF"])
@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_pillows_limit_of_pixels_does_not_apply(format: str, resize: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(format)
    expected = decode_resized(content, 3, 16, resize)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image._decompression_bomb_check((50, 40))
    assert torch.equal(decode_resized(content, 3, 16, resize), expected)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1100)  # the limit to warn at
    with warnings.catch_warnings(action="error"):
        decode_resized(content, 3, 16, resize)


def test_the_process_is_not_changed() -> None:
    def state() -> tuple[object, ...]:
        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters), sorted(Image.OPEN)

    before = state()
    for format in set(FORMATS.values()):
        decode_image(encoded(format), 3)
    decode_image(with_chunks(chunk(b"tEXt", b"a\0b", is_intact=False)), 3)
    assert state() == before and "HEIF" not in Image.OPEN


def chunk(kind: bytes, data: bytes, is_intact: bool = True) -> bytes:
    checksum = zlib.crc32(kind + data) ^ (not is_intact)
    return len(data).to_bytes(4, "big") + kind + data + checksum.to_bytes(4, "big")


def chunks(content: bytes) -> list[bytes]:
    found, position = [], 8
    while position < len(content):
        end = position + 12 + int.from_bytes(content[position : position + 4], "big")
        found.append(content[position:end])
        position = end
    return found


def with_chunks(*more: bytes, at: int = 1, content: bytes = b"") -> bytes:
    """A PNG with two IDAT chunks, and `more` in front of chunk `at`."""
    content = content or encoded("PNG")
    header, *between, data, end = chunks(content)
    compressed = data[8:-4]
    parts = [header, *between, chunk(b"IDAT", compressed[:99]), chunk(b"IDAT", compressed[99:]), end]
    return content[:8] + b"".join((*parts[:at], *more, *parts[at:]))


DAMAGED_CHUNKS = {
    "checksum": chunk(b"tEXt", b"Title\0x", is_intact=False),
    "checksum of an unknown chunk": chunk(b"abCd", b"x", is_intact=False),
    "text": chunk(b"zTXt", b"Title\0\0" + zlib.compress(bytes(2**21))),
    "international text": chunk(b"iTXt", b"Title\0\1\0\0\0" + zlib.compress(bytes(2**21))),
    "color profile": chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2**21))),
    "color profile's compression": chunk(b"iCCP", b"profile\0\7x"),
    "all text": chunk(b"zTXt", b"Title\0\0" + zlib.compress(bytes(2**19))) * 3,
    "gamma": chunk(b"gAMA", b""),
    "chromaticity": chunk(b"cHRM", b"123"),
    "sRGB": chunk(b"sRGB", b""),
    "resolution": chunk(b"pHYs", b""),
    "animation": chunk(b"acTL", b"") + chunk(b"fcTL", b""),
}


@pytest.mark.parametrize("kind", DAMAGED_CHUNKS)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_damaged_metadata_of_a_png(kind: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 2**20)  # instead of 64 MiB, which take a second
    content = with_chunks(DAMAGED_CHUNKS[kind], at=at)
    assert np.array_equal(decode_image(content, 3).permute(1, 2, 0), COLORS)
    assert read_header("x", content).size == (50, 40)


def test_what_pixels_depend_on_survives_damaged_metadata() -> None:
    damaged = chunk(b"tEXt", b"Title\0x", is_intact=False)
    for is_intact in (True, False):
        for at in (1, 2, 3):
            turned = with_chunks(damaged, chunk(b"eXIf", TURNED.tobytes()[6:], is_intact), at=at)
            assert np.array_equal(decode_image(turned, 3).permute(1, 2, 0), np.rot90(COLORS, -1))
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    buffer = BytesIO()
    palette.save(buffer, "PNG", transparency=1)
    content = with_chunks(damaged, content=buffer.getvalue())
    assert decode_image(content, 3)[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255]]
    with pytest.raises(UserError, match="tRNS"):
        place = content.index(b"tRNS")
        decode_image(content[: place + 5] + b"\1" + content[place + 6 :], 3)


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"PLTE"])
@pytest.mark.parametrize("has_damaged_metadata", [False, True])
def test_damaged_pixels_are_an_error(kind: bytes, has_damaged_metadata: bool) -> None:
    content = encoded("PNG", COLORS, "P")
    if has_damaged_metadata:
        content = with_chunks(DAMAGED_CHUNKS["checksum"], content=content)
    place = content.index(kind) + 12
    with pytest.raises(UserError):
        decode_image(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :], 3)
    with pytest.raises(UserError):
        decode_image(content[: content.rindex(b"IDAT") + 40], 3)


letters = st.sampled_from(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
unknown_kinds = st.tuples(letters, letters, letters, letters).map(
    lambda kind: bytes(kind[:1]).lower() + bytes(kind[1:])
)
known_kinds = st.sampled_from(
    [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"bKGD"]
)
ancillary = st.builds(
    chunk, (known_kinds | unknown_kinds).filter(lambda kind: kind not in (b"tRNS", b"eXIf")),
    st.binary(max_size=40), is_intact=st.booleans(),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(more=st.lists(ancillary, max_size=4), at=st.integers(1, 4))
def test_ancillary_chunks_never_change_pixels(more: list[bytes], at: int) -> None:
    pixels = decode_image(with_chunks(*more, at=at), 3)
    assert np.array_equal(pixels.permute(1, 2, 0), COLORS)


def segment(kind: int, data: bytes) -> bytes:
    return bytes([0xFF, kind]) + (len(data) + 2).to_bytes(2, "big") + data


DAMAGED_SEGMENTS = {
    "color profile": segment(0xE2, b"ICC_PROFILE\0"),
    "resolution": segment(0xE0, b"JFIF\0"),
    "color transform": segment(0xEE, b"Adobe"),
    "Photoshop": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4"),
    "second image": segment(0xE2, b"MPF\0II*\0\x08\0\0\0"),
    "comment": segment(0xFE, b""),
}


@pytest.mark.filterwarnings("ignore:.*malformed MPO")
@pytest.mark.parametrize("kind", DAMAGED_SEGMENTS)
def test_damaged_metadata_of_a_jpeg(kind: str) -> None:
    for mode in ("RGB", "L", "CMYK"):
        intact = encoded("JPEG", COLORS, mode, exif=TURNED.tobytes())
        for place in (2, intact.index(b"\xff\xdb")):
            damaged = intact[:place] + DAMAGED_SEGMENTS[kind] + intact[place:]
            assert torch.equal(decode_image(damaged, 3), decode_image(intact, 3))
            assert torch.equal(decode_resized(damaged, 3, 4), decode_resized(intact, 3, 4))
            with pytest.raises(UserError):
                decode_image(damaged[: len(damaged) * 3 // 4], 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("offset", [0, 4, 8, 10])
def test_damaged_exif(format: str, offset: int) -> None:
    """Its byte order, the address of its tags, their number, or the first of them. There is no orientation in it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "A camera"
    intact = encoded(format, exif=exif.tobytes())
    place = max(intact.find(b"MM\0*"), intact.find(b"II*\0")) + offset
    damaged = intact[:place] + b"\xff\xff" + intact[place + 2 :]
    assert len(damaged) == len(intact) and damaged != intact
    assert torch.equal(decode_image(damaged, 3), decode_image(intact, 3))
