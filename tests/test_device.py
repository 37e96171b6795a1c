from __future__ import annotations

import json
import sys
import warnings

import pytest
import torch

from googlenet import UserError, device
from googlenet.device import (
    available_cores,
    compile_error,
    describe,
    keep_freed_memory,
    memory_bytes,
    require,
    resolve_device,
    resolve_precision,
    scoped_process_state,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["abacus", "cuda:77", "cpu:1", "", "xpu"])
def test_devices_that_do_not_exist(name: str) -> None:
    with pytest.raises(UserError, match=repr(name)):
        resolve_device(name)


def test_devices_of_this_machine() -> None:
    assert resolve_device("cpu") == resolve_device(CPU) == CPU
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else resolve_device("auto").type)


def test_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"fp16.*bf16"):
        resolve_precision("fp16", CPU)
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(device, "_cpu_has_bf16", lambda native=native: native)
        assert resolve_precision("auto", CPU) == expected
        assert resolve_precision("bf16", CPU) == "bf16"


def test_state_of_the_process_is_restored() -> None:
    torch.manual_seed(0)
    before, filters = torch.get_rng_state(), list(warnings.filters)
    with pytest.raises(KeyError), scoped_process_state(CPU):
        torch.manual_seed(5)
        warnings.simplefilter("ignore")
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
    assert warnings.filters == filters
    with keep_freed_memory():
        torch.ones(1_000_000)


def test_a_missing_package_is_named_with_the_command_to_install_it() -> None:
    require("torch", "everything")
    with pytest.raises(UserError, match=r"the demo.*pip install no_such_package"):
        require("no_such_package", "the demo")


def test_description_of_the_machine() -> None:
    description = json.loads(json.dumps(describe(CPU)))
    assert description["packages"]["torch"] == torch.__version__.partition("+")[0] or torch.__version__
    assert description["device"] == "cpu"
    assert description["cores"] == available_cores() >= 1
    assert description["memory_gib"] == round(memory_bytes() / 2**30, 1) > 0


def test_compile_error_is_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no C++ compiler\nand more")

    compile_error.cache_clear()
    monkeypatch.setattr(torch, "compile", fail)
    try:
        assert compile_error(CPU) == "no C++ compiler"
    finally:
        compile_error.cache_clear()


def test_capabilities_in_pytorch_before_2_11(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name for name, has in device.cpu_capabilities().items() if has is True and name.endswith("bf16")}
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    flags = device.cpu_capabilities()
    assert known <= set(flags)
    if sys.platform.startswith("linux"):
        assert flags
    monkeypatch.setattr(device, "Path", lambda _: (_ for _ in ()).throw(OSError("no /proc")))
    assert device.cpu_capabilities() == {}
