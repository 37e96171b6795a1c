"""Files of torch.export that would run code; tests/inference/test_export.py opens intact ones."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from googlenet import UserError
from googlenet.inference.backends import open_exported
from googlenet.inference.program_file import read_program
from tests.soak.mutations import Canary

NODE: dict[str, Any] = {
    "target": "torch.ops.aten.relu.default", "inputs": [{"name": "input", "arg": {"as_tensor": {"name": "images"}}}],
    "metadata": {"stack_trace": "any text"},
}  # fmt: skip
SIZE = {"as_expr": {"expr_str": "Mul(Integer(32), Symbol('s14', positive=True, integer=True))", "hint": {"as_int": 2}}}
SPEC = '[1, {"type": "builtins.tuple", "context": "null", "children_spec": []}]'


def write(path: Path, node: dict[str, Any] = NODE, members: tuple[tuple[str, bytes], ...] = (), **fields: Any) -> Path:
    graph = {
        "graph_module": {"graph": {"nodes": [node]}, "in_spec": SPEC},
        "sizes": [SIZE],
        "guards_code": [],
        **fields,
    }
    config = {"config": {"net.weight": {"path_name": "weight_0", "use_pickle": fields.get("use_pickle", False)}}}
    sample = io.BytesIO()
    torch.save(((torch.zeros(1),), {}), sample)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (
            ("archive_format", b"pt2"), ("models/model.json", json.dumps(graph).encode()),
            ("data/weights/model_weights_config.json", json.dumps(config).encode()), ("data/weights/weight_0", b"0000"),
            ("data/sample_inputs/model.pt", sample.getvalue()), ("extra/googlenet", b"{}"), *members,
        ):  # fmt: skip
            archive.writestr(f"x/{name}", content)
    return path


def test_an_intact_file_is_copied_without_what_only_debugging_needs(tmp_path: Path) -> None:
    with zipfile.ZipFile(read_program(write(tmp_path / "x.pt2"))) as copy:
        graph = json.loads(copy.read("x/models/model.json"))
        assert copy.read("x/data/weights/weight_0") == b"0000"
    assert graph["graph_module"]["graph"]["nodes"] == [{**NODE, "metadata": {}}]
    assert graph["sizes"] == [SIZE]


@pytest.mark.parametrize(
    "fields",
    [
        {"node": {**NODE, "target": "torch.os.system"}},
        {"node": {**NODE, "target": "torch.ops.load_library"}},
        {"node": {**NODE, "target": "torch.ops.aten.from_file.default"}},
        {"node": {**NODE, "target": "torch.ops.aten.from_file.out"}},
        {"node": {**NODE, "target": "torch.ops.aten.no_such.default"}},
        {"node": {**NODE, "inputs": [{"arg": {"as_operator": "torch.os.system"}}]}},
        {"node": {**NODE, "name": "x = __import__('os')"}},
        {"sizes": [{"as_expr": {"expr_str": "__import__('os').system('id')"}}]},
        {"sizes": [{"as_expr": {"expr_str": "exec(Symbol('s1'))"}}]},
        {"guards_code": ["print()"]},
        {"in_spec": SPEC.replace("builtins.tuple", "collections.defaultdict")},
        {"use_pickle": True},
        {"members": (("data/aotinductor/model/x.so", b""),)},
        {"members": (("data/constants/custom_obj_0", b""),)},
        {"members": (("../evil", b""),)},
        {"members": (("archive_format", b"pt2"),)},
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_whatever_could_run_code_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not read"):
        read_program(write(tmp_path / "x.pt2", **fields))


@pytest.mark.parametrize("name", ["data/sample_inputs/model.pt", "data/weights/model.pt"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_pickle_is_not_run(name: str, tmp_path: Path) -> None:
    payload = pickle.dumps(Canary(str(tmp_path / "canary")))
    path = write(tmp_path / "x.pt2", members=((name, payload),))
    with pytest.raises(UserError):
        open_exported(path)
    assert not (tmp_path / "canary").exists()


def test_a_large_description_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("googlenet.inference.program_file._MAX_JSON", 100)
    with pytest.raises(UserError, match="bytes"):
        read_program(write(tmp_path / "x.pt2"))
