"""The command `googlenet`: one function a command; each parses, calls, prints.

What a command needs is imported inside it, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from cyclopts import CycloptsError, UnusedCliTokensError

from googlenet.cli import data, evaluate, explain, export, predict, train  # noqa: F401  (they add their commands)
from googlenet.cli.app import app
from googlenet.errors import RunError, UserError, is_out_of_memory, reason_of


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 failed, 2 called wrongly, 130 stopped by Ctrl-C."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):  # names of files need not be text
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    tokens = sys.argv[1:] if arguments is None else arguments
    try:
        code = int(app(tokens, exit_on_error=False, print_error=False, result_action="return_value") or 0)
        _flush()
        return code
    except UnusedCliTokensError as error:
        unused = " ".join(map(repr, error.unused_tokens or ()))
        code, message = 2, f"nothing takes {unused} here; what can be given, and which options have no value: --help"
    except (CycloptsError, UserError) as error:
        code, message = 2, str(error)
    except RunError as error:
        code, message = 1, str(error)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        code, message = 1, f"the memory ran out; try a smaller --batch-size or other device ({reason_of(error)})"
    except KeyboardInterrupt:
        code, message = 130, "stopped"
    except BrokenPipeError:  # whoever read our output has had enough
        _discard()
        return 1
    except OSError as error:
        code, message = 1, f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error)
    print(f"googlenet: {' '.join(message.split())}", file=sys.stderr)
    return code


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _discard()
        raise


def _discard() -> None:
    """What nobody can read goes nowhere, or else Python would try again at its end, and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
