"""The two kinds of error that this package raises on purpose. Each message is one line."""

_MAX_REASON = 160
_SOURCE_LINES = ("Exception from src/", "Check '")


class UserError(ValueError):
    """The user's mistake: the message says what is wrong, where, and the way out. Exit code 2."""


class RunError(RuntimeError):
    """A correct request that failed, for example because the disk is full. Exit code 1."""


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
