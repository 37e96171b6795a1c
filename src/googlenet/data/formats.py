"""The image formats that are read, and files that only open without their metadata."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from googlenet.errors import UserError

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif")
)
_PNG = b"\x89PNG\r\n\x1a\n"
_PLUGINS: dict[bytes, Callable[[Any], ImageFile]] = {
    _PNG: PngImageFile,
    b"\xff\xd8\xff": jpeg_factory,  # of MPO files too: a JPEG with further images
    b"GIF87a": GifImageFile,
    b"GIF89a": GifImageFile,
    b"BM": BmpImageFile,
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),  # little and big endian; + is BigTIFF
}
_AVIF = frozenset((b"avif", b"avis"))
_HEIF = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))


def open_file(file: str | Path | bytes, prepare: Callable[[ImageFile], None]) -> ImageFile:
    """Open an image file of any name, or its content, and `prepare` it: load its pixels, for example.

    Unlike `PIL.Image.open` it knows only the formats of this file (Pillow's EPS plugin starts Ghostscript), and does
    not apply Pillow's limit of pixels, which is one for the whole process. A PNG, JPEG or AVIF file that fails is tried
    once more without its metadata.

    Raises `PIL.UnidentifiedImageError` for another format, or HEIC if pillow-heif is not installed; for damaged files
    errors of any type, as Pillow's decoders do.
    """
    if isinstance(file, str | Path):
        with Path(file).open("rb") as opened:
            start = opened.read(64)
    else:
        start = bytes(file[:64])
    plugin = _plugin(start)
    try:
        image = plugin(file if isinstance(file, str | Path) else io.BytesIO(file))
        image.filename = ""  # else Pillow maps uncompressed files into memory, and garbles rotated TIFF images
        return _prepared(image, prepare)
    except Exception as error:
        strip = _STRIP.get(plugin)
        if strip is None or isinstance(error, UserError | MemoryError):
            raise
        content = Path(file).read_bytes() if isinstance(file, str | Path) else file
        return _prepared(plugin(io.BytesIO(strip(content))), prepare)


def _prepared(image: ImageFile, prepare: Callable[[ImageFile], None]) -> ImageFile:
    try:
        prepare(image)
    except BaseException:
        image.close()
        raise
    return image


def _plugin(start: bytes) -> Callable[[Any], ImageFile]:
    """What opens a file that starts with these bytes."""
    for magic, plugin in _PLUGINS.items():
        if start.startswith(magic):
            return plugin
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return WebPImageFile
    if start[4:8] == b"ftyp":  # a box with the brands of the file; MP4 has it too
        end = min(int.from_bytes(start[:4], "big"), len(start))
        brands = {start[position : position + 4] for position in range(8, end, 4)}
        if brands & _AVIF:
            return AvifImageFile
        if brands & _HEIF:
            try:
                from pillow_heif import HeifImageFile
            except ImportError as error:
                raise UnidentifiedImageError("HEIC needs pillow-heif: pip install 'googlenet[heic]'") from error
            return HeifImageFile
    raise UnidentifiedImageError("not a PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF or HEIC image")


def _strip_png(content: bytes) -> bytes:
    """The chunks that pixels depend on, and the orientation (https://www.w3.org/TR/png-3/, sections 5 and 11).

    Raises `ValueError` if one of them has a wrong checksum, or is cut off.
    """
    kept, position = [_PNG], len(_PNG)
    while position + 8 <= len(content):
        end = position + 12 + int.from_bytes(content[position : position + 4], "big")
        kind, data = content[position + 4 : position + 8], content[position + 8 : end - 4]
        is_intact = end <= len(content) and crc32(kind + data).to_bytes(4, "big") == content[end - 4 : end]
        if not kind[0] & 0x20 or kind == b"tRNS":  # critical chunks start with a capital letter
            if not is_intact:
                raise ValueError(f"damaged {kind.decode('latin-1')!r} chunk")
            kept.append(content[position:end])
        elif kind == b"eXIf" and (exif := _orientation(data).removeprefix(b"Exif\0\0")):
            checksum = crc32(kind + exif).to_bytes(4, "big")
            kept.append(len(exif).to_bytes(4, "big") + kind + exif + checksum)
        if kind == b"IEND":
            break
        position = end
    return b"".join(kept)


def _strip_jpeg(content: bytes) -> bytes:
    """The segments that pixels depend on, and the orientation (ITU-T T.81, section B.1.1)."""
    shortest = dict.fromkeys((*range(0xE0, 0xF0), 0xFE), 0x10000)  # APPn and COM are metadata,
    shortest |= {0xE0: 14, 0xEE: 12}  # except the two that choose the color space, if libjpeg finds them long enough
    kept, position = [content[:2]], 2
    while (start := content.find(b"\xff", position)) >= 0:
        kind = content[start + 1] if start + 1 < len(content) else 0xDA
        if kind == 0xDA:  # the first scan
            return b"".join((*kept, content[start:]))
        if kind in (0x00, 0xFF):  # padding between segments
            position = start + 1
            continue
        position = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        data = content[start + 4 : position]
        if len(data) >= shortest.get(kind, 0):
            kept.append(content[start:position])
        elif kind == 0xE1 and data.startswith(b"Exif\0") and (exif := _orientation(data)):
            kept.append(b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif)
    return b"".join(kept)


def _strip_avif(content: bytes) -> bytes:
    """Its EXIF becomes an item of an unknown type, which decoders skip. The orientation is stored elsewhere."""
    return content.replace(b"Exif", b"free", 1)


def _orientation(metadata: bytes) -> bytes:
    """EXIF metadata with the orientation alone; empty if there is none, or if it cannot be read."""
    found, kept = Image.Exif(), Image.Exif()
    try:
        found.load(metadata)
        kept[ExifTags.Base.Orientation] = found[ExifTags.Base.Orientation]
        return kept.tobytes()
    except Exception:  # Pillow raises errors of any type
        return b""


_STRIP: dict[Callable[[Any], ImageFile], Callable[[bytes], bytes]] = {
    PngImageFile: _strip_png,
    jpeg_factory: _strip_jpeg,
    AvifImageFile: _strip_avif,
}
