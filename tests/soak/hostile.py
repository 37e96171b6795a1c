"""Damages real files in seeded ways and reads them: model files, checkpoints, recipes, images, tables, downloads, ...

python -m tests.soak.hostile --cases 100000 --log hostile.jsonl

A file either works or is refused with one line (`UserError` or `RunError`). Anything else is a failure: another error,
more than `SECONDS`, a process that dies, more than `MEGABYTES` of memory, a file written anywhere else, and code of the
file that runs. A failure is named TARGET:SEED:NUMBER; `--case` repeats it and shows the whole error. With `--log`, a
run that was interrupted continues after the last block that it finished.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import itertools
import json
import os
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch

import googlenet
from googlenet import RunError, UserError
from googlenet.errors import printable
from tests.conftest import TINY
from tests.soak.targets import MAX_PIXELS, Materials, Target, targets

SECONDS = 20  # for one case, on a busy machine
MEGABYTES = 512  # that one case may add to the memory of the process
_ADDRESS_SPACE = 8 * 2**30  # what a process may ask for at all, so that a failure does not end others on this machine
_LONGEST = 1000  # characters of a message
_BLOCK = 500
_RUNS_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn", "subprocess.Popen",
              "pickle.find_class", "ctypes.dlopen", "os.startfile")  # fmt: skip
_WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate",
           "os.utime", "shutil.rmtree", "shutil.move")  # fmt: skip


class Result(NamedTuple):
    """What became of one case: worked, refused, or why it failed."""

    target: str
    number: int
    outcome: str


def case_names(names: Sequence[str], shares: Sequence[int], cases: int) -> list[tuple[str, int]]:
    """The target of each case, and its number within the target; the shares are even in every part of the list."""
    cycle = [name for turn in range(max(shares)) for name, share in zip(names, shares, strict=True) if turn < share]
    numbers = {name: itertools.count() for name in names}
    return [(name, next(numbers[name])) for name in itertools.islice(itertools.cycle(cycle), cases)]


class Guard:
    """Notes what a file must not cause, through Python's audit events."""

    def __init__(self, scratch: Path) -> None:
        self.allowed = (str(scratch), "/proc/", os.devnull)
        self.found: list[str] = []
        self.is_on = False
        sys.addaudithook(self._watch)

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event in _RUNS_CODE:
            self.found.append(f"ran {event} {arguments[0]!r}"[:200])
        elif event == "socket.connect" and arguments[1][0] != "127.0.0.1":
            self.found.append(f"connected to {arguments[1]}")
        elif event in _WRITES or (event == "open" and _writes(arguments)):
            self.found += [
                f"{event} of {os.fsdecode(path)}"
                for path in arguments[: 2 if "link" in event or "rename" in event else 1]
                if isinstance(path, str | bytes | os.PathLike)
                and not os.path.realpath(os.fsdecode(path)).startswith(self.allowed)
            ]  # fmt: skip


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2] if isinstance(arguments[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))


def peak_megabytes() -> float:
    """The highest resident memory of this process since `reset_peak`."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def reset_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("5")


def try_case(target: Target, seed: int, name: str, number: int, guard: Guard, scratch: Path) -> str:
    """`worked`, `refused`, or what went wrong with one damaged file."""
    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    torch.manual_seed(0)
    path = target.damage(Random(f"{name}:{seed}:{number}"), folder)
    problem, outcome = "", "worked"
    reset_peak()
    before = peak_megabytes()
    guard.found.clear()
    guard.is_on = True
    try:
        target.read(path)
    except (UserError, RunError) as error:
        outcome, text = "refused", str(error)
        line = " ".join(text.split())
        if "memory" in line and "not enough" in line:
            problem = f"memory: {line}"
        elif not line or len(text) > _LONGEST or printable(text) != text:
            problem = f"not one line: {text[:300]!r}"
    except BaseException:
        problem = traceback.format_exc()
    finally:
        guard.is_on = False
    if (used := peak_megabytes() - before) > MEGABYTES:
        problem += f" {used:.0f} MB of memory ({outcome})"
    if guard.found:
        problem += f" {guard.found[0]}"
    if (scratch / "canary").exists():
        (scratch / "canary").unlink()
        problem += " the file's code ran"
    return problem or outcome


def _child(
    all_targets: dict[str, Target], seed: int, cases: Iterable[tuple[str, int]], scratch: Path, pipe: int
) -> None:
    """Try cases one after the other; write one line of JSON for each."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(scratch)  # so names that are relative, to it or to an open folder, count as within it
    guard = Guard(scratch)
    with (scratch / "stack").open("w") as stack, (scratch / "output").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        faulthandler.enable(stack)
        for name, number in cases:
            faulthandler.dump_traceback_later(SECONDS, exit=True, file=stack)
            outcome = try_case(all_targets[name], seed, name, number, guard, scratch)
            faulthandler.cancel_dump_traceback_later()
            os.write(pipe, (json.dumps(Result(name, number, outcome)) + "\n").encode())


def try_cases(
    all_targets: dict[str, Target], seed: int, cases: list[tuple[str, int]], scratch: Path
) -> Iterator[Result]:
    """Each case's result. A process tries one after the other; if it dies, another one continues."""
    while cases:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            status = 1
            try:
                _child(all_targets, seed, cases, scratch, writer)
                status = 0
            except BaseException:
                (scratch / "stack").write_text(traceback.format_exc())
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader, "r", encoding="utf-8") as lines:
            results = [Result(*json.loads(line)) for line in lines]
        _, status = os.waitpid(child, 0)
        yield from results
        if len(results) < len(cases):
            name, number = cases[len(results)]
            stack = (scratch / "stack").read_text(errors="replace")[:3000]
            yield Result(name, number, f"the process ended ({os.waitstatus_to_exitcode(status)}): {stack}")
        cases = cases[len(results) + 1 :]


@contextlib.contextmanager
def environment(scratch: Path) -> Iterator[None]:
    """A cache and temporary files within `scratch`, and nothing from a network."""
    values = {"XDG_CACHE_HOME": f"{scratch}/cache", "TMPDIR": f"{scratch}/tmp", "no_proxy": "127.0.0.1",
              "GOOGLENET_MAX_PIXELS": str(MAX_PIXELS), "GOOGLENET_MIRROR": "http://127.0.0.1:9"}  # fmt: skip
    before = {name: os.environ.get(name) for name in values}
    (scratch / "tmp").mkdir(parents=True)
    old = tempfile.tempdir, sys.dont_write_bytecode
    os.environ.update(values)
    tempfile.tempdir, sys.dont_write_bytecode = f"{scratch}/tmp", True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        tempfile.tempdir, sys.dont_write_bytecode = old
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def warm_up(all_targets: dict[str, Target], scratch: Path) -> None:
    """Read one file of each kind, so that what this imports is not imported by every child."""
    for name, target in all_targets.items():
        if name != "download":  # its server is a thread, which a fork does not have
            folder = scratch / "first" / name
            folder.mkdir(parents=True)
            with contextlib.suppress(Exception):
                target.read(target.damage(Random(0), folder))


def soak(
    all_targets: dict[str, Target], cases: int, seed: int, scratch: Path, log: Path | None,
    report: Callable[[str], None] = print,
) -> bool:  # fmt: skip
    """Try that many cases; prints a table. Returns whether none failed."""
    counts = {name: {"worked": 0, "refused": 0, "failed": 0} for name in all_targets}
    failures: list[str] = []
    chosen = case_names(list(all_targets), [target.share for target in all_targets.values()], cases)
    done = [] if log is None or not log.exists() else [json.loads(line) for line in log.read_text().splitlines()]
    for start in range(0, cases, _BLOCK):
        key = [seed, cases, start]
        block = next((block for block in done if block["block"] == key), None)
        if block is None:
            block = {"block": key, "counts": {}, "failures": []}
            for name, number, outcome in try_cases(all_targets, seed, chosen[start : start + _BLOCK], scratch):
                kind = outcome if outcome in ("worked", "refused") else "failed"
                count = block["counts"].setdefault(name, {})
                count[kind] = count.get(kind, 0) + 1
                if kind == "failed":
                    block["failures"].append(f"{name}:{seed}:{number} {outcome}")
            if log is not None:
                with log.open("a") as file:
                    file.write(json.dumps(block) + "\n")
        failures += block["failures"]
        for name, count in block["counts"].items():
            for kind, value in count.items():
                counts[name][kind] += value
        print(f"{min(start + _BLOCK, cases):,}/{cases:,} cases, {len(failures)} failures", file=sys.stderr, flush=True)
    report("| file | tried | worked | refused | failed |\n|---|---|---|---|---|")
    total = {kind: sum(count[kind] for count in counts.values()) for kind in ("worked", "refused", "failed")}
    for name, count in [*counts.items(), ("all", total)]:
        report(f"| {name} | {sum(count.values()):,} | " + " | ".join(f"{value:,}" for value in count.values()) + " |")
    for failure in failures:
        report(f"\nFAILED, {failure}")
    return not failures


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.hostile", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--cases", type=int, default=100_000, help="how many (default: 100,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: 0)")
    parser.add_argument("--targets", default="", help="parts of names of targets, separated by commas (default: all)")
    parser.add_argument("--log", type=Path, help="file for the results of finished blocks, to continue from")
    parser.add_argument("--case", help="repeat one case, TARGET:SEED:NUMBER, in this process")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)  # before a fork
    with tempfile.TemporaryDirectory(prefix="googlenet-hostile-") as folder, environment(Path(folder) / "soak"):
        scratch = Path(folder).resolve() / "soak"
        googlenet.train(output=scratch / "run", data_dir="bundled", max_steps=2, **TINY)
        found = targets(Materials(scratch / "run", scratch))
        if arguments.case:
            name, seed, number = arguments.case.rsplit(":", 2)
            print(try_case(found[name], int(seed), name, int(number), Guard(scratch), scratch))
            return 0
        parts = arguments.targets.split(",")
        found = {name: target for name, target in found.items() if any(part in name for part in parts)}
        warm_up(found, scratch)
        return 0 if soak(found, arguments.cases, arguments.seed, scratch, arguments.log) else 1


if __name__ == "__main__":
    sys.exit(main())
