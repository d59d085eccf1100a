"""
The command `linvt`: ask, run, bench, encode, inspect, wrap, convert, eval, demo, serve, web, over the Python API.

Every expected failure is one line on stderr and an exit status: 1 for what is wrong with files and models, 2 for what
is wrong with the command, 130 when interrupted. Files appear whole or not at all.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from ..errors import LinVTError


try:
    from .arguments import make_parser
    from .output import complain, in_flags, quiet
except KeyboardInterrupt:  # it takes seconds until torch and transformers are there, and who waits may change his mind
    print("linvt: interrupted", file=sys.stderr)
    sys.exit(130)


# What may go wrong with a user's files and models; anything else is a mistake of ours and keeps its traceback.
_EXPECTED = (LinVTError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*):
            Arguments without the name of the program; those of the process if not given.

    Returns:
        `int`: The exit status.
    """
    arguments = make_parser().parse_args(argv)
    notes: list[str] = []
    try:
        with quiet(arguments.verbose, notes):
            arguments.run(arguments)
            sys.stdout.flush()
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except BrokenPipeError:
        # whoever read has seen enough; Python would complain once more when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except _EXPECTED as error:
        if arguments.verbose:
            traceback.print_exc()
        complain(in_flags(str(error) or type(error).__name__, vars(arguments)))
        return 1
    for note in () if arguments.quiet else dict.fromkeys(notes):
        complain(f"note: {in_flags(note, vars(arguments))}")
    return 0
