"""The two ways in which this package says no."""


class UserError(ValueError):
    """A mistake in what was asked for: one line that says what is wrong, where, and the way out. Exit code 2."""


class RunError(RuntimeError):
    """Something that was asked for correctly could not be done: one line. Exit code 1."""
