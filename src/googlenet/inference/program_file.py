"""Files of torch.export (`.pt2`), read so that nothing in them can run code.

`torch.export.load` unpickles some of its members, loads libraries from the archive, and evaluates expressions as
Python. So an archive is read here first, and copied without anything but what `googlenet export` writes: tensors as
plain bytes, and a graph that calls ATen's operators.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from googlenet.errors import UserError
from googlenet.files import parse_json

_MAX_JSON = 2**26  # bytes; a graph of ours has 3 MB
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)|extra/[\w.-]+|models/model\.json"
    r"|data/(weights|constants)/((weight|tensor)_\d+|model_(weights|constants)_config\.json|model\.pt)"
    r"|data/sample_inputs/model\.pt"
)
_WORD = re.compile(r"[\w.+-]*")
_STRINGS = {
    "target": re.compile(r"torch\.ops\.aten\.\w+\.\w+"),
    "expr_str": re.compile(
        r"((Symbol|Integer|Mul|Add|Pow|Max|Min|Mod|FloorDiv|CeilDiv)\(|'?[su]\d+'?|(positive|integer)=True"
        r"|-?\d+|[(), *+-])*"
    ),
    **dict.fromkeys(
        ("in_spec", "out_spec"),
        re.compile(
            r'(\[1, |\{"type": (null|"builtins\.(tuple|list|dict)"), "context": (null|"null"|"\[\]"), '
            r'"children_spec": \[|[\]}]|, )*'
        ),
    ),
}
"""What the strings of a graph may be, by the name of their field: an operator, the size of a side, the structure of the
arguments. All others are words."""
_WAYS = ("approximate", "indexing", "mode", "padding_mode", "reduce", "rounding_mode")
_REFUSED = ("as_operator", "as_custom_obj", "as_graph", "use_pickle", "guards_code")


def read_program(path: Path) -> io.BytesIO:
    """A copy of an archive that `torch.export.load` can open safely. Raises `UserError` for any other file, and errors
    of Python for one that is damaged."""
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as checked:
        for member in archive.infolist():
            top, _, name = member.filename.partition("/")
            if not _MEMBERS.fullmatch(name) or member.compress_type != zipfile.ZIP_STORED:
                raise UserError(f"{path} was not read: its {name} is not of googlenet export, and might run code")
            content = archive.read(member)
            if name.endswith(".pt"):
                torch.load(io.BytesIO(content), weights_only=True)
            elif name.endswith(".json"):
                content = _checked_json(content, path)
            checked.writestr(f"{top}/{name}", content)
        if len(set(checked.namelist())) < len(checked.namelist()):
            raise UserError(f"{path} was not read: it has two members of the same name")
    copy.seek(0)
    return copy


def _checked_json(content: bytes, path: Path) -> bytes:
    if len(content) > _MAX_JSON:
        raise UserError(f"{path} was not read: its description has {len(content):,} bytes")
    values = parse_json(content.decode())
    pending = [("", values)]
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict):
            if "target" in value:
                value["metadata"] = {}  # where a node comes from, which only debugging needs
            pending += value.items()
        elif isinstance(value, list):
            pending += ((name, part) for part in value)
        if name == "target" and isinstance(value, str) and value.startswith("torch.ops.") and not _is_arithmetic(value):
            raise UserError(f"{path} was not read: its operator {value} might read or write files")
        is_word = isinstance(value, str) and _STRINGS.get(name, _WORD).fullmatch(value)
        if not _WORD.fullmatch(name) or (isinstance(value, str) and not is_word) or (name in _REFUSED and value):
            raise UserError(f"{path} was not read: {name} = {value!r} in its graph might run code")
    return json.dumps(values).encode()  # without keys that are there twice, of which another parser may see the first


def _is_arithmetic(target: str) -> bool:
    """Whether an operator of ATen takes no text but the name of a way to compute: another could name a file."""
    operator: Any = torch.ops
    try:
        for part in target.split(".")[2:]:
            operator = getattr(operator, part)
        arguments = operator._schema.arguments
    except AttributeError:
        return False
    return all("str" not in str(argument.type).lower() or argument.name in _WAYS for argument in arguments)
