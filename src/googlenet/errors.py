"""The two ways in which this package says no, and what it says."""

_LONGEST_REASON = 160


class UserError(ValueError):
    """A mistake in what was asked for: one line that says what is wrong, where, and the way out. Exit code 2."""


class RunError(RuntimeError):
    """Something that was asked for correctly could not be done: one line. Exit code 1."""


class DivergedError(RunError):
    """A loss that is no number any more."""


def check_counts(**counts: int) -> None:
    """Counts of a caller's, by their names. Raises `UserError` for one below 1."""
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} is 1 or more, not {count}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, on any device, could not have the memory that it asked for."""
    said = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)


def reason_of(error: BaseException) -> str:
    """What an error of the system or of another library says, in one short line."""
    if isinstance(error, OSError) and error.strerror:  # without its number, and the path that the caller names himself
        return error.strerror
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + " ..."
