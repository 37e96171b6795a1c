"""The two kinds of error that this package raises on purpose. Each message is one line of printable text."""

import contextlib
import re
from pathlib import Path

_MAX_REASON, _MAX_MESSAGE = 160, 1000
# Control characters, which could change what a terminal shows, those that reverse the order of text, and the halves of
# characters that stand for bytes that are not UTF-8
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SOURCE_LINES = ("Exception from src/", "Check '")


def printable(path: str | Path) -> str:
    """A file name as one line of valid text: control characters and bytes that are not UTF-8 appear as \\xNN."""
    text = str(path)
    with contextlib.suppress(UnicodeEncodeError):  # it has something that is neither a character nor a byte
        # In a locale without UTF-8, Python has bytes of a name where it has characters elsewhere
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _message(text: str) -> str:
    """A message, which may quote a file, as it can be shown: the middle of a long one is omitted."""
    text = printable(text)
    return text if len(text) <= _MAX_MESSAGE else f"{text[:700]} ... {text[-290:]}"


class UserError(ValueError):
    """The user's mistake: the message says what is wrong, where, and the way out. Exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(_message(message))


class RunError(RuntimeError):
    """A correct request that failed, for example because the disk is full. Exit code 1."""

    def __init__(self, message: str) -> None:
        super().__init__(_message(message))


class DivergedError(RunError):
    """A loss or gradient that is NaN or infinite: `what` it was, and what to try."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}; {advice}")
        self.what, self.advice = what, advice


class Terminated(KeyboardInterrupt):
    """SIGTERM, as from a scheduler that stops a job. Exit code `TERMINATED`."""


TERMINATED = 75
"""Exit code after SIGTERM: EX_TEMPFAIL of sysexits.h, "try again later". No other failure has it."""


def check_counts(**counts: int | None) -> None:
    """Raises `UserError` for a count below 1, by its name; None is allowed."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"{name} must be 1 or more, not {count}")


def check_confidence(confidence: float) -> None:
    """Raises `UserError` unless a confidence threshold is a probability."""
    if not 0 <= confidence <= 1:
        raise UserError(f"confidence must be a probability from 0 to 1, not {confidence}")


def plural(count: int, noun: str) -> str:
    """`1 image`, `2,000 images`, `1 class`, `2 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, on any device, or Python could not allocate memory."""
    message = str(error)
    texts = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in message for text in texts)
    )


def reason_of(error: BaseException) -> str:
    """The first line of an error of the system or of another library that says what is wrong, shortened."""
    if isinstance(error, OSError) and error.strerror:  # without the number and the path, which our message has
        return error.strerror
    lines = (str(error).strip() or type(error).__name__).splitlines()
    # OpenVINO says first where in its source an error was raised
    line = next((text.strip() for text in lines if text.strip() and not text.startswith(_SOURCE_LINES)), lines[0])
    return line if len(line) <= _MAX_REASON else line[:_MAX_REASON] + " ..."
