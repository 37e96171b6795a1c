"""Changes one thing at a time in a module and runs its tests: how many of the changes do they notice?

python -m tests.soak.mutants                     all four modules
python -m tests.soak.mutants data/store.py --sample 50

The changes are those of cosmic-ray (comparisons, `and` and `or`, `not`, numbers, arithmetic, conditions, loops that do
not run, exceptions that are not caught), and calls that are left out. Not with cosmic-ray or mutmut themselves: they
start a process for each change, and each imports PyTorch. Here each change is tried in a fork of one process that has
imported it.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCE = Path(__file__).parents[2] / "src" / "googlenet"
MODULES = {
    "training/run_folder.py": ["tests/training/test_run_folder.py"],
    "weights/model_file.py": ["tests/weights/test_model_file.py", "-k", "not [v and not [paper and not [torchvision"],
    "data/fashion_mnist.py": ["tests/data/test_fashion_mnist.py"],
    "data/store.py": ["tests/data/test_store.py", "-k", "not killed and not training_goes_on"],
}
"""Modules, and the tests that must notice changes in them; without those that take longest."""
_FUNCTIONS = {"data/fashion_mnist.py": {"read_unpacked", "parse_idx", "dump_idx", "_read_verified", "_read"}}
"""What counts of a module, if not all of it: here, the reader of IDX files."""
_SECONDS = 120  # for the tests of one change; more counts as noticed
_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.Break: ast.Continue,
    ast.Continue: ast.Break,
}  # fmt: skip
Change = Callable[[], None]


def mutants(tree: ast.Module, functions: set[str] | None = None) -> Iterator[tuple[str, ast.Module]]:
    """Copies of a module with one change each, in all of it or in these functions, and where it is and what."""
    for number in range(len(_changes(tree, functions))):
        other = copy.deepcopy(tree)
        where, change = _changes(other, functions)[number]
        change()
        yield where, ast.fix_missing_locations(other)


def _changes(tree: ast.Module, functions: set[str] | None) -> list[tuple[str, Change]]:
    """Every change that can be made to a tree, or to these functions of it."""
    found: list[tuple[str, Change]] = []

    def add(node: ast.AST, what: str, change: Change) -> None:
        found.append((f"line {getattr(node, 'lineno', '?')}: {what}", change))

    def swap(holder: Any, name: str, node: ast.AST) -> None:
        new = _SWAPS.get(type(getattr(holder, name)))
        if new is not None:
            what = f"{type(getattr(holder, name)).__name__} -> {new.__name__}"
            add(node, what, lambda: setattr(holder, name, new()))

    def visit(node: ast.AST) -> None:
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for index, part in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(part, ast.AST):
                    consider(node, name, index if isinstance(value, list) else None, part)
                    if not isinstance(part, ast.JoinedStr | ast.Raise) and not _is_message(part):
                        visit(part)

    def consider(parent: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
        def replace(new: ast.AST) -> None:
            if index is None:
                setattr(parent, name, new)
            else:
                getattr(parent, name)[index] = new

        match node:
            case ast.Compare():
                other: Any = _SWAPS.get(type(node.ops[0]))
                if other is not None:
                    add(node, f"{ast.unparse(node)}: {other.__name__}", lambda: node.ops.__setitem__(0, other()))
            case ast.BoolOp() | ast.BinOp() | ast.AugAssign():
                swap(node, "op", node)
            case ast.UnaryOp(op=ast.Not()):
                add(node, f"{ast.unparse(node)}: not removed", lambda: replace(node.operand))
            case ast.Constant(value=bool() as value):
                add(node, f"{value} -> {not value}", lambda: setattr(node, "value", not value))
            case ast.Constant(value=int() | float() as value):
                add(node, f"{value} -> {value + 1}", lambda: setattr(node, "value", value + 1))
            case ast.If() | ast.IfExp() | ast.While():
                test = node.test
                if not isinstance(test, ast.Compare):
                    negated = ast.UnaryOp(ast.Not(), test)
                    add(node, f"if not ({ast.unparse(test)})", lambda: setattr(node, "test", negated))
            case ast.For():
                add(
                    node,
                    f"no loop over {ast.unparse(node.iter)}",
                    lambda: setattr(node, "iter", ast.List([], ast.Load())),
                )
            case ast.ExceptHandler():
                never = ast.Name("NotImplementedError", ast.Load())
                add(node, "exception not caught", lambda: setattr(node, "type", never))
            case ast.Expr(value=ast.Call()) if not _is_message(node):
                add(node, f"without {ast.unparse(node)[:60]}", lambda: replace(ast.Pass()))
            case ast.Break() | ast.Continue():
                new = _SWAPS[type(node)]
                add(node, f"{new.__name__}", lambda: replace(new()))

    for part in [tree] if functions is None else tree.body:
        if functions is None or (isinstance(part, ast.FunctionDef) and part.name in functions):
            visit(part)
    return found


def _is_message(node: ast.AST) -> bool:
    """Whether this only says something."""
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith(("log.", "warnings."))


class Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from changed source."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        return (
            importlib.util.spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None
        )

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def is_noticed(name: str, path: Path, tree: ast.Module, tests: list[str]) -> bool:
    """Whether the tests fail with this source, in a child process."""
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.alarm(_SECONDS)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        status = 1
        try:
            import pytest

            os.fsync = lambda fd: None
            sys.meta_path.insert(0, Importer(name, path, tree))
            status = int(pytest.main([*tests, "-x", "-q", "-p", "no:cacheprovider"]))
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] != 0


def preload() -> None:
    """Import everything that is slow to import, but googlenet itself, which each child imports with its change."""
    for name in ("hypothesis.extra.numpy", "matplotlib.figure", "tests.conftest", *map(_module_name, MODULES)):
        importlib.import_module(name)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("googlenet", "tests"):
            del sys.modules[name]
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"


def _module_name(module: str) -> str:
    return f"googlenet.{module.removesuffix('.py').replace('/', '.')}"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.mutants", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("modules", nargs="*", help=f"default: {', '.join(MODULES)}")
    parser.add_argument("--sample", type=int, help="that many changes of each module, chosen at random (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default: 0)")
    arguments = parser.parse_args(words)
    preload()
    print("| module | changes | noticed | score |\n|---|---|---|---|", flush=True)
    for module in arguments.modules or MODULES:
        path, tests = SOURCE / module, MODULES[module]
        name = _module_name(module)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if is_noticed(name, path, tree, tests):
            raise SystemExit(f"{tests} fail for the module as it is")
        chosen = list(mutants(tree, _FUNCTIONS.get(module)))
        if arguments.sample is not None and arguments.sample < len(chosen):
            chosen = random.Random(arguments.seed).sample(chosen, arguments.sample)
        survived = []
        for where, other in chosen:
            started = time.perf_counter()
            if not is_noticed(name, path, other, tests):
                survived.append(where)
                print(
                    f"not noticed: {module} {where} ({time.perf_counter() - started:.0f} s)",
                    file=sys.stderr,
                    flush=True,
                )
        noticed = len(chosen) - len(survived)
        print(f"| {module} | {len(chosen)} | {noticed} | {noticed / len(chosen):.0%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
