"""Takes processes, hosts and cables away from a training run on several hosts, and compares it with an undisturbed one.

python -m tests.soak.hosts

The hosts are network namespaces with their own addresses, which needs Linux and root. On each, torchrun starts one
process, and they meet at the first host. A lost process or host must end like an undisturbed run: the same weights,
rows, predictions and evaluation, to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import googlenet
from googlenet import RunFolder
from tests.soak.kills import differences
from tests.soak.network import PORT, Host, network, why_not
from tests.training.helpers import small_net

TIMEOUT = 15
"""Seconds that a process waits for the others (`--process-timeout`)."""
LIMIT = 600  # seconds for anything that should happen at all
RUN: dict[str, Any] = {
    "recipe": "fast", "data_dir": "bundled", "image_size": 28, "whiten": False, "batch_size": 32, "max_steps": 500,
    "log_every": 10, "checkpoint_every": 50, "precision": "fp32", "max_test_images": 101, "plots": False,
    "sync_batch_norm": True, "process_timeout": TIMEOUT,
}  # fmt: skip
KILL_AT = 220  # a step
CLOSE = 0.1  # test losses of runs with another number of hosts, whose dropout differs


@dataclass
class Job:
    """The same torchrun command on every host."""

    hosts: Sequence[Host]
    folder: Path
    nodes: str  # as torchrun's --nnodes
    restarts: int = 3
    agents: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, *hosts: Host) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for host in hosts or self.hosts:
            launcher = (
                f"-m torch.distributed.run --nnodes {self.nodes} --nproc-per-node 1 --max-restarts {self.restarts} "
                f"--rdzv-backend c10d --rdzv-endpoint {self.hosts[0].address}:{PORT} --rdzv-id {self.folder.name} "
                f"--rdzv-conf is_host={int(host is self.hosts[0])},read_timeout={TIMEOUT},last_call_timeout=3,"
                f"join_timeout=120 --local-addr {host.address} -m tests.soak.hosts"
            )
            words = (*launcher.split(), "--one-process", self.run.path)
            environment = {**os.environ, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}
            # Else a host that joins later waits for the address of the first one, which has given it only once
            environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
            with self.log(host).open("ab") as log:
                self.agents[host.name] = subprocess.Popen(
                    host.command(sys.executable, *words), env=environment, stdout=log, stderr=log
                )

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.folder / "run")

    @property
    def step(self) -> int:
        return max((row["step"] for row in self.run.rows()), default=0)

    def log(self, host: Host) -> Path:
        return self.folder / f"{host.name}.log"

    def losses(self, host: Host) -> int:
        """How often the process on this host has reported that it lost another one."""
        return self.log(host).read_text().count("googlenet: lost another process")

    def worker(self, host: Host) -> psutil.Process:
        (worker,) = psutil.Process(self.agents[host.name].pid).children()
        return worker

    def wait(self, *hosts: Host) -> list[int]:
        """The exit codes of torchrun."""
        return [self.agents[host.name].wait(LIMIT) for host in hosts or self.hosts]

    def end(self) -> None:
        for agent in self.agents.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in (*psutil.Process(agent.pid).children(recursive=True), agent):
                    process.kill()


def seconds_until(condition: Callable[[], bool], job: Job) -> float:
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > LIMIT or all(agent.poll() is not None for agent in job.agents.values()):
            raise AssertionError("\n".join(job.log(host).read_text()[-3000:] for host in job.hosts))
        time.sleep(0.05)
    return time.monotonic() - started


@contextlib.contextmanager
def job_on(count: int, folder: Path, *, nodes: str | None = None, restarts: int = 3) -> Iterator[Job]:
    with network(count) as hosts:
        job = Job(hosts, folder, nodes or str(count), restarts)
        try:
            yield job
        finally:
            job.end()


@dataclass
class Result:
    """What a case shows. `noticed`, `training`: seconds until the survivors report it, and until the next new row."""

    noticed: float
    training: float | None
    problems: list[str]


def disturb(job: Job, action: Callable[[], object], *survivors: Host) -> float:
    """Start a job and take something away from it. Returns the seconds until all survivors report it."""
    job.start()
    seconds_until(lambda: job.step >= KILL_AT, job)
    action()
    return seconds_until(lambda: all(job.losses(host) > 0 for host in survivors), job)


def finish(job: Job, whole: Path, noticed: float, *hosts: Host) -> Result:
    """The result of a job that goes on until its end."""
    step = job.step
    training = noticed + seconds_until(lambda: job.step > step + 5, job)
    codes = job.wait(*hosts)
    return Result(noticed, training, differences(whole, job.run.path) + [f"exit code {code}" for code in codes if code])


def complete(job: Job) -> Path:
    """The folder of a run that nobody disturbs."""
    job.start()
    if any(job.wait()):
        raise SystemExit("\n".join(job.log(host).read_text()[-3000:] for host in job.hosts))
    return job.run.path


def process_killed(folder: Path, whole: Path, number: int) -> Result:
    with job_on(2, folder) as job:
        killed, survivor = job.hosts[number], job.hosts[1 - number]
        return finish(job, whole, disturb(job, lambda: job.worker(killed).kill(), survivor))


def process_stopped(folder: Path, whole: Path) -> Result:
    with job_on(2, folder) as job:
        first, second = job.hosts
        return finish(job, whole, disturb(job, lambda: job.worker(second).send_signal(signal.SIGSTOP), first))


def host_replaced(folder: Path, whole: Path) -> Result:
    """The scheduler starts the same command on a host with the same address."""
    with job_on(2, folder) as job:
        first, second = job.hosts
        noticed = disturb(job, second.kill, first)
        second.plug(True)
        job.start(second)
        return finish(job, whole, noticed)


def first_host_lost(folder: Path, whole: Path) -> Result:
    """Nobody can meet without the first host, so the other one ends. Started again, the job continues."""
    with job_on(2, folder, restarts=1) as job:
        first, second = job.hosts
        noticed = disturb(job, first.kill, second)
        code = job.wait(second)
        first.plug(True)
        job.start()
        result = finish(job, whole, noticed)
        result.problems.extend(["the other host has not failed"] if code == [0] else [])
        return result


def host_lost_for_good(folder: Path, whole: Path) -> Result:
    """Of three hosts, two continue with the same batches; sums are rounded differently."""
    with job_on(3, folder, nodes="2:3") as job:
        *rest, lost = job.hosts
        result = finish(job, whole, disturb(job, lost.kill, *rest), *rest)
        losses, expected = (
            [row["loss"] for row in run.rows() if row["split"] == "test"] for run in (job.run, RunFolder(whole))
        )
        apart = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
        result.problems[:] = [] if apart < CLOSE else [f"test losses up to {apart:.2g} apart"]
        return result


def cable_pulled(folder: Path, _whole: Path) -> Result:
    """Without restarts, every process must end with a clear error, in time."""
    with job_on(2, folder, restarts=0) as job:
        noticed = disturb(job, lambda: job.hosts[1].plug(False), *job.hosts)
        codes = job.wait()
        return Result(noticed, None, [f"exit codes {codes}"] if 0 in codes or noticed > 2 * TIMEOUT else [])


CASES: dict[str, Callable[[Path, Path], Result]] = {
    "process of the second host killed": functools.partial(process_killed, number=1),
    "process of the first host killed": functools.partial(process_killed, number=0),
    "process stopped, as if it hung": process_stopped,
    "second host lost, then replaced": host_replaced,
    "first host lost, then the job started again": first_host_lost,
    "one of three hosts lost for good": host_lost_for_good,
    "cable pulled, without restarts": cable_pulled,
}


def soak(scratch: Path, names: Sequence[str], report: Callable[[str], None] = print) -> bool:
    """Run these cases; prints a table. Returns whether all went well."""
    with job_on(2, scratch / "whole") as job:
        whole = complete(job)
    report("| case | noticed after | trains again after | result |\n|---|---|---|---|")
    failed = False
    for number, name in enumerate(names):
        result = CASES[name](scratch / f"case-{number}", whole)
        failed = failed or bool(result.problems)
        again = "-" if result.training is None else f"{result.training:.0f} s"
        report(f"| {name} | {result.noticed:.1f} s | {again} | {'; '.join(result.problems) or 'passed'} |")
    return not failed


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.hosts", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--one-process", type=Path, help="be one process of a run in this folder")
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), help="their numbers (default: all)")
    arguments = parser.parse_args(words)
    if arguments.one_process is not None:
        try:
            googlenet.train(output=arguments.one_process, model=small_net(), **RUN)
        except googlenet.RunError as error:
            raise SystemExit(f"googlenet: {error}") from error
        return 0
    if (reason := why_not()) is not None:
        print(f"skipped: {reason}")
        return 0
    with tempfile.TemporaryDirectory(prefix="googlenet-soak-") as scratch:
        return 0 if soak(Path(scratch), [list(CASES)[number] for number in arguments.cases]) else 1


if __name__ == "__main__":
    sys.exit(main())
