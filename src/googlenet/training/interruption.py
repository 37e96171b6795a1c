"""Ctrl-C and SIGTERM during a run."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator

from googlenet.console import log
from googlenet.errors import Terminated

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """What `Interruption.check` raises."""


class Interruption:
    """Ends a run when a signal asks for it.

    Within `deferred` the signal waits for the current step, so that the run can save; elsewhere there is nothing to
    save, and it raises `KeyboardInterrupt` or `Terminated` at once. So does a second Ctrl-C anywhere. A second SIGTERM
    does nothing: launchers pass on the one that they get.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal that asked; 0: none
        self._is_deferred = False

    def __enter__(self) -> Interruption:
        is_main = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
        signals = _SIGNALS if is_main else ()
        self._previous: dict[int, Any] = {number: signal.signal(number, self._request) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, _frame: object) -> None:
        is_second = self.number != 0
        self.number = self.number or number
        if number == signal.SIGINT and (is_second or not self._is_deferred):
            raise KeyboardInterrupt
        if not self._is_deferred:
            raise Terminated
        if not is_second:
            log.info("stopping after this step; press Ctrl-C again to stop at once")

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it, signals wait until somebody asks for them."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    @property
    def requested(self) -> bool:
        return self.number != 0

    @property
    def by_sigterm(self) -> bool:
        return self.number == signal.SIGTERM

    def check(self) -> None:
        """Raises `Stopped` if a signal waits."""
        if self.requested:
            raise Stopped

    def requested_anywhere(self, accelerator: Accelerator) -> bool:
        """Whether any process got a signal: the same answer in all of them."""
        if accelerator.num_processes == 1:
            return self.requested
        anywhere = int(accelerator.gather(torch.tensor([self.number], device=accelerator.device)).max())
        self.number = self.number or anywhere  # a signal may have come meanwhile, which counts the next time
        return anywhere != 0
