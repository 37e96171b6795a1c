"""Hosts with their own addresses on one Linux machine: network namespaces that a bridge connects."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PORT = 29400
_numbers = itertools.count()


@dataclass(frozen=True)
class Host:
    """A namespace with one interface, eth0, and the other end of its cable, in the namespace of the bridge."""

    name: str
    address: str
    switch: str
    cable: str

    def command(self, *words: object) -> list[str]:
        """A command line that runs on this host."""
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    def plug(self, state: bool) -> None:
        """Pull the cable, or put it back."""
        _ip("-n", self.switch, "link", "set", self.cable, "up" if state else "down")

    def kill(self) -> None:
        """SIGKILL for all processes, as if the power failed; nobody gets to hear that connections are closed."""
        self.plug(False)
        for process in _ip("netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)

    @property
    def file(self) -> Path:
        """The namespace, for `setns`."""
        return Path("/run/netns") / self.name


@functools.cache
def why_not() -> str | None:
    """Why namespaces cannot be made here, or None."""
    if shutil.which("ip") is None:
        return "the command ip is missing (Linux, package iproute2)"
    try:
        with network(1) as (host,):
            subprocess.run(host.command("true"), check=True, capture_output=True)
    except (subprocess.CalledProcessError, OSError) as error:
        return f"network namespaces cannot be made here: {getattr(error, 'stderr', None) or error}".strip()
    return None


@contextlib.contextmanager
def network(count: int) -> Iterator[list[Host]]:
    """Hosts 10.77.0.1, 10.77.0.2, ... that reach each other and nothing else."""
    prefix = f"gn{os.getpid()}n{next(_numbers)}"
    switch = f"{prefix}s"
    hosts = [Host(f"{prefix}h{number}", f"10.77.0.{number}", switch, f"port{number}") for number in range(1, count + 1)]
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for host in hosts:
            _ip("netns", "add", host.name)
            peer = ("peer", "name", host.cable, "netns", switch)
            _ip("link", "add", "eth0", "netns", host.name, "type", "veth", *peer)
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            # TCP gives up after half a minute instead of a quarter of an hour; torchrun itself has no shorter limit
            limit = "echo 6 > /proc/sys/net/ipv4/tcp_retries2"
            subprocess.run(host.command("sh", "-c", limit), check=True, capture_output=True)
            for interface in ("lo", "eth0"):
                _ip("-n", host.name, "link", "set", interface, "up")
            _ip("-n", switch, "link", "set", host.cable, "master", "bridge", "up")
        yield hosts
    finally:
        for name in (*(host.name for host in hosts), switch):
            with contextlib.suppress(subprocess.CalledProcessError, OSError):
                for process in _ip("netns", "pids", name).split():
                    os.kill(int(process), signal.SIGKILL)
                _ip("netns", "delete", name)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
