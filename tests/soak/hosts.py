"""Takes processes, hosts and cables away from a training run on several hosts, and compares it with an undisturbed one.

python -m tests.soak.hosts

The hosts are network namespaces with their own addresses, which needs Linux and root. On each, torchrun starts one
process, and they meet at the first host. A lost process or host must end like an undisturbed run: the same weights,
rows, predictions and evaluation, to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
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
        """How often the process on this host has said that it lost another one."""
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


@dataclass
class Result:
    """What a case shows. `noticed`, `training`: seconds until a survivor says so, and until the next new row."""

    case: str
    noticed: float
    training: float | None
    problems: list[str]


def disturbed(
    case: str, job: Job, whole: Path, disturb: Callable[[Job], None], survivor: Host, repair: Callable[[Job], None]
) -> Result:
    """A run that goes on after something was taken away from it, and perhaps put back."""
    job.start()
    seconds_until(lambda: job.step >= KILL_AT, job)
    disturb(job)
    started = time.monotonic()
    noticed = seconds_until(lambda: job.losses(survivor) > 0, job)
    step = job.step
    repair(job)
    seconds_until(lambda: job.step > step + 5, job)
    training = time.monotonic() - started
    codes = job.wait()
    problems = differences(whole, job.run.path) + [f"exit code {code}" for code in codes if code != 0]
    return Result(case, noticed, training, problems)


def nothing(_: Job) -> None:
    """What a case does that repairs nothing."""


def kill_process(number: int) -> Callable[[Job], None]:
    return lambda job: job.worker(job.hosts[number]).kill()


def stop_process(job: Job) -> None:
    job.worker(job.hosts[1]).send_signal(signal.SIGSTOP)


def kill_host(job: Job) -> None:
    job.hosts[1].kill()


def replace_host(job: Job) -> None:
    """As a scheduler does: the same command, on a host with the same address."""
    job.hosts[1].plug(True)
    job.start(job.hosts[1])


def first_host_lost(job: Job, whole: Path) -> Result:
    """Nobody can meet without the first host, so the other one ends; started again, the job continues."""
    job.start()
    seconds_until(lambda: job.step >= KILL_AT, job)
    job.hosts[0].kill()
    noticed = seconds_until(lambda: job.losses(job.hosts[1]) > 0, job)
    step, problems = job.step, []
    if job.wait(job.hosts[1]) == [0]:
        problems.append("the other host has not failed")
    job.hosts[0].plug(True)
    job.start()
    training = seconds_until(lambda: job.step > step + 5, job)
    codes = job.wait()
    problems += differences(whole, job.run.path) + [f"exit code {code}" for code in codes if code != 0]
    return Result("first host lost; the job started again", noticed, training, problems)


def host_lost_for_good(job: Job, whole: Path) -> Result:
    """Of three hosts, two go on with the same batches."""
    job.start()
    seconds_until(lambda: job.step >= KILL_AT, job)
    job.hosts[2].kill()
    started = time.monotonic()
    noticed = seconds_until(lambda: job.losses(job.hosts[0]) > 0, job)
    step = job.step
    seconds_until(lambda: job.step > step + 5, job)
    training = time.monotonic() - started
    codes = job.wait(*job.hosts[:2])
    rows, expected = job.run.rows(), RunFolder(whole).rows()
    problems = [f"exit code {code}" for code in codes if code != 0]
    if [(row["step"], row["split"]) for row in rows] != [(row["step"], row["split"]) for row in expected]:
        problems.append("other rows")
    return Result("one of three hosts lost, not replaced", noticed, training, problems)


def partition(job: Job) -> Result:
    """Without restarts, every process must end with a clear error, in time."""
    job.start()
    seconds_until(lambda: job.step >= KILL_AT, job)
    job.hosts[1].plug(False)
    noticed = seconds_until(lambda: all(job.losses(host) > 0 for host in job.hosts), job)
    codes, problems = job.wait(), []
    if noticed > 2 * TIMEOUT:
        problems.append(f"noticed after {noticed:.0f} s")
    if 0 in codes:
        problems.append(f"exit codes {codes}")
    return Result("cable pulled, no restarts", noticed, None, problems)


@contextlib.contextmanager
def job_on(count: int, folder: Path, nodes: str, restarts: int = 3) -> Iterator[Job]:
    with network(count) as hosts:
        job = Job(hosts, folder, nodes, restarts)
        try:
            yield job
        finally:
            job.end()


def soak(scratch: Path, report: Callable[[str], None] = print) -> bool:
    """All cases; prints a table. Returns whether all went well."""
    with job_on(2, scratch / "whole", "2") as job:
        job.start()
        if job.wait() != [0, 0]:
            raise SystemExit("\n".join(job.log(host).read_text()[-3000:] for host in job.hosts))
        whole = job.run.path
    results: list[Result] = []

    def add(result: Result) -> None:
        results.append(result)
        print(f"{result.case}: {'; '.join(result.problems) or 'passed'}", file=sys.stderr, flush=True)

    for name, disturb, survivor, repair in (
        ("process of the second host killed", kill_process(1), 0, nothing),
        ("process of the first host killed", kill_process(0), 1, nothing),
        ("process stopped, as if it hung", stop_process, 0, nothing),
        ("second host lost, then replaced", kill_host, 0, replace_host),
    ):
        with job_on(2, scratch / name.replace(" ", "-").replace(",", ""), "2") as job:
            add(disturbed(name, job, whole, disturb, job.hosts[survivor], repair))
    with job_on(2, scratch / "first-host", "2", restarts=1) as job:
        add(first_host_lost(job, whole))
    with job_on(3, scratch / "three", "2:3") as job:
        add(host_lost_for_good(job, whole))
    with job_on(2, scratch / "partition", "2", restarts=0) as job:
        add(partition(job))
    report("| case | noticed after | trains again after | result |\n|---|---|---|---|")
    for result in results:
        again = "-" if result.training is None else f"{result.training:.0f} s"
        report(f"| {result.case} | {result.noticed:.1f} s | {again} | {'; '.join(result.problems) or 'passed'} |")
    return not any(result.problems for result in results)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.hosts", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--one-process", type=Path, help="be one process of a run in this folder")
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
        return 0 if soak(Path(scratch)) else 1


if __name__ == "__main__":
    sys.exit(main())
