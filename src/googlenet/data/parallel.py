"""One function over many files, on all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from googlenet.machine import available_cores

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many files are done, and of how many."""


def on_all_cores(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    what: str,
    progress: Progress = lambda *_: None,
    *,
    threads: int | None = None,
) -> Iterator[Result]:
    """The results in the order of `items`, as they come. Threads: Pillow and hashing work without Python's lock."""
    with ThreadPoolExecutor(threads or available_cores()) as pool:
        for done, result in enumerate(pool.map(function, items), start=1):
            yield result
            progress(what, done, len(items))
