"""The command `googlenet`: one function per command, which parses, calls and prints.

What a command needs is imported inside it, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import warnings
from io import TextIOWrapper

from cyclopts import CycloptsError, UnusedCliTokensError

# These add their commands
from googlenet.cli import data, doctor, embed, evaluate, explain, export, predict, report, visualize, weights  # noqa: F401
from googlenet.cli.options import app
from googlenet.errors import TERMINATED, RunError, Terminated, UserError, is_out_of_memory, printable, reason_of

# Importing these takes as long as all others together; `help` is the first line of their docstrings
app.command(
    "googlenet.cli.train:train", name="train",
    help="Train a network. Every setting of a recipe is an option; the others are the recipe's.",
)  # fmt: skip
app.command("googlenet.cli.convert:import_", name="import", help="Convert other people's weights to a model file.")


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 success, 1 failed, 2 usage error, 75 ended by SIGTERM, 130 interrupted."""
    # Half a second of a start would be the garbage collector's, which walks through all that PyTorch defines and frees
    # nothing. So full collections are rare, and the last one, when Python ends, skips these objects.
    gc.set_threshold(700, 10, 1000)
    atexit.register(gc.freeze)
    # File names need not be valid text
    for stream, errors in (
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
        (sys.stdin, "surrogateescape"),
    ):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=errors)
    # Pillow warns about odd metadata, which we do not use, and about large images, for which we have our own limit
    warnings.filterwarnings("ignore", module=r"PIL\.")
    tokens = sys.argv[1:] if arguments is None else arguments
    try:
        code = int(app(tokens, exit_on_error=False, print_error=False, result_action="return_value") or 0)
        sys.stdout.flush()
        sys.exit(code)
    except UnusedCliTokensError as error:
        unused = " ".join(map(repr, error.unused_tokens or ()))
        code, message = (
            2,
            f"unexpected argument {unused}; see --help for the arguments, and for options without a value",
        )
    except (CycloptsError, UserError) as error:
        code, message = 2, str(error)
    except RunError as error:
        code, message = 1, str(error)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        code, message = 1, f"out of memory; try a smaller --batch-size or another --device ({reason_of(error)})"
    except Terminated:
        code, message = TERMINATED, "ended by SIGTERM"
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    except BrokenPipeError:  # the reader of our output has closed it
        _discard_output()
        sys.exit(1)
    except OSError as error:
        code, message = 1, f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error)
        try:
            sys.stdout.flush()
        except OSError:
            _discard_output()
    print(f"googlenet: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)


def _discard_output() -> None:
    """Else Python would try to write it again at exit, and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
