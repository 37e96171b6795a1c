"""Damage to the content of files: of bytes, of structured values, and of containers whose checksums are put right."""

from __future__ import annotations

import copy
import gzip
import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any
from zlib import crc32

_NUMBERS = (0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
_WORDS = (b"[" * 5000, b'{"a":' * 3000, b"9" * 5000, b"\0", b"\xff\xfe", b'"', b"\n", b"../../evil", b"1e999", b"NaN")
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, math.nan, math.inf, "", "a", "\x1b[31m\nred",
    "é" * 50_000, "../../evil", "/etc/passwd", [], [[]], {}, {"a": 1}, [1, "a", None], [0.0] * 50_000,
)  # fmt: skip


class Canary:
    """Unpickled with Python's own `pickle`, it opens a file for writing: proof that code of a file ran."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def canary(path: str, draw: Random) -> bytes:
    """A pickle that runs code, in one of several ways to write it."""
    shell = b"cposix\nsystem\n(S'echo > " + path.encode() + b"'\ntR."
    evaluated = b"c__builtin__\neval\n(S'open(\"" + path.encode() + b'", "w")\'\ntR.'
    return draw.choice((shell, evaluated, *(pickle.dumps(Canary(path), protocol) for protocol in (0, 2, 4))))


def damaged(content: bytes, draw: Random, other: bytes = b"") -> bytes:
    """Some edits: bits, integers, words, and chunks that are removed, repeated, cleared, or taken from another file."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8, 30))):
        content = _edited(content, draw, other)
    return content


def _edited(content: bytes, draw: Random, other: bytes) -> bytes:
    size = len(content)
    # Headers come first, so half of the edits are near the start
    start = min(int(size ** draw.random()), size) if draw.random() < 0.5 else draw.randint(0, size)
    length = min(int(max(size, 2) ** draw.random()), size)
    before, after = content[:start], content[start:]
    match draw.randrange(9):
        case 0 | 1 if after:  # one bit
            return before + bytes((after[0] ^ 1 << draw.randrange(8),)) + after[1:]
        case 2 | 3:  # an integer: a length, a count, an offset, a width
            width = draw.choice((1, 2, 4, 8))
            order = draw.choice(("little", "big"))
            old = int.from_bytes(after[:width], order)
            number = draw.choice((*_NUMBERS, old + 1, old - 1, old * 2)) % 256**width
            return before + number.to_bytes(width, order) + after[width:]
        case 4:
            return before if draw.random() < 0.5 else before + draw.randbytes(draw.randint(1, 64))
        case 5:
            return before + after[length:]
        case 6:
            return before + after[:length] * draw.choice((2, 2, 3, 20 if length < 4096 else 2)) + after[length:]
        case 7:
            source = other or content
            place = draw.randint(0, len(source))
            return before + source[place : place + length] + after[draw.choice((0, length)) :]
    word = draw.choice((*_WORDS, bytes(length), draw.randbytes(min(length, 64))))
    return before + word + after[draw.choice((0, len(word))) :]


def changed_value(value: Any, draw: Random) -> Any:
    """A copy of a value of JSON, TOML or a checkpoint with some of its parts removed, repeated or replaced."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        holder, key = _place(value, draw)
        if holder is None:
            return draw.choice(ODD_VALUES)
        match draw.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[draw.choice(("new", "", 0, "a\nb", "x" * 3000))] = holder.pop(key)
            case 1 if isinstance(holder, list):
                holder[key:key] = [holder[key]] * draw.choice((1, 1000))
            case 2:
                other, name = _place(value, draw)
                holder[key] = copy.deepcopy(other[name]) if other is not None else None
            case _:
                holder[key] = copy.deepcopy(draw.choice(ODD_VALUES))
    return value


def _place(value: Any, draw: Random) -> tuple[Any, Any]:
    """A random list or dictionary within a value, and one of its keys; None if it has none."""
    found: tuple[Any, Any] = (None, None)
    while isinstance(value, dict | list) and value:
        key = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
        found, value = (value, key), value[key]
        if draw.random() < 0.25:
            break
    return found


def damaged_json(text: bytes, draw: Random) -> bytes:
    """A JSON file with other values, or with other bytes."""
    if draw.random() < 0.6:
        return json.dumps(changed_value(json.loads(text), draw)).encode()
    return damaged(text, draw)


def damaged_gzip(content: bytes, draw: Random) -> bytes:
    """Damaged before or after it is packed, or with gigabytes that pack well."""
    choice = draw.random()
    if choice < 0.1:
        return gzip.compress(content, 1) + gzip.compress(bytes(2**24), 1) * draw.choice((1, 8, 200))
    if choice < 0.6:
        return gzip.compress(damaged(content, draw), 1)
    return damaged(gzip.compress(content, 1), draw)


def damaged_png(content: bytes, draw: Random) -> bytes:
    """A PNG file with damaged, repeated or reordered chunks that have right checksums."""
    if draw.random() < 0.3:
        return damaged(content, draw)
    chunks, position = [], 8
    while position < len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        chunks.append((content[position + 4 : position + 8], content[position + 8 : position + 8 + length]))
        position += 12 + length
    number = draw.randrange(len(chunks))
    kind, data = chunks[number]
    match draw.randrange(4):
        case 0:
            chunks.insert(draw.randint(0, len(chunks)), chunks.pop(number))
        case 1:
            chunks[number:number] = [(kind, damaged(data, draw))] * draw.choice((1, 100))
        case _:
            chunks[number] = (kind, damaged(data, draw))
    packed = (
        len(data).to_bytes(4, "big") + kind + data + crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
    return content[:8] + b"".join(packed)


def damaged_zip(content: bytes, draw: Random, path: str, damage: Callable[[str, bytes, Random], bytes]) -> bytes:
    """A zip file in which members are damaged, missing, have other names, are links or hold a pickle with code."""
    if draw.random() < 0.3:
        return damaged(content, draw)
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w") as new:
        members = old.infolist()
        chosen = draw.choice(members)
        for member in members:
            data, name = old.read(member), member.filename
            if member is chosen or draw.random() < 0.05:
                match draw.randrange(6):
                    case 0:
                        continue
                    case 1:
                        name = draw.choice(
                            ("../../evil", "/tmp/evil", f"{name}/../../evil", draw.choice(members).filename)
                        )
                    case 2 if name.endswith((".pkl", ".pt")):
                        data = canary(path, draw)
                    case 3:
                        link = zipfile.ZipInfo(name)
                        link.external_attr = 0o120777 << 16  # a symbolic link of Unix
                        new.writestr(link, b"/etc/passwd")
                        continue
                    case _:
                        data = damage(name, data, draw)
            new.writestr(name, data, zipfile.ZIP_DEFLATED if draw.random() < 0.05 else zipfile.ZIP_STORED)
    return result.getvalue()
