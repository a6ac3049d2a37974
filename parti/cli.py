# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The `parti` command: a sub-command per stage, each imported only when it is chosen.

Exit codes: 0 done, 1 failed while running, 2 bad usage or bad input, 130 interrupted; of a training
also 143 after SIGTERM, 75 after a stall (docs/training.md).
"""

import difflib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

from parti.stages import commands, quiet
from parti.stages.version import VERSION

# What the stages raise for a wrong flag, value, file or folder; anything else is a failure.
USER_MISTAKES = (ValueError, OSError)


def usage() -> str:
    """Returns the text of `parti --help`."""
    lines = ["usage: parti COMMAND [--flag=value ...]", "", "Text to image, stage by stage.", ""]
    for title, group in commands.GROUPS.items():
        lines.append(f"{title}:")
        lines += [f"  {name:<10} {help_line}" for name, (_, _, help_line) in group.items()]
        lines.append("")
    lines += [
        "parti COMMAND --help    flags and an example",
        "parti --version         the version",
        "--verbose               after any command: full tracebacks and third-party logs",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code (see the module's docstring)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"parti {VERSION}")
        return 0
    command, *rest = arguments
    if command not in commands.COMMANDS:
        hint = f"commands: {', '.join(commands.COMMANDS)}"
        if near := difflib.get_close_matches(command, commands.COMMANDS, n=1):
            hint = f"did you mean `parti {near[0]}`?"
        print(f"parti: unknown command {command!r}; {hint}", file=sys.stderr)
        return 2
    if "--verbose" in rest:
        os.environ[quiet.VARIABLE] = "1"  # pipelines and the stages of a workflow read it too
    return _run(command, [argument for argument in rest if argument != "--verbose"])


def _run(command: str, arguments: list[str]) -> int:
    """Imports and calls one command; turns its exceptions into a line and an exit code."""
    verbose = bool(os.environ.get(quiet.VARIABLE))
    quiet.install()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # any name can be printed, whatever the locale
            stream.reconfigure(errors="backslashreplace")
    module, function, _ = commands.COMMANDS[command]
    try:
        return getattr(importlib.import_module(module), function)(arguments) or 0
    except KeyboardInterrupt as error:
        more = f"; {error}" if str(error) else ""
        print(f"parti {command}: interrupted{more}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `parti ... | head` is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if verbose:
            traceback.print_exc()
        if isinstance(error, USER_MISTAKES):
            print(f"parti {command}: {_one_line(error)}", file=sys.stderr)
            return 2
        what = f"{type(error).__name__}: {_one_line(error)}"
        hint = "" if verbose else " (--verbose shows where)"
        print(f"parti {command}: {what}{hint}", file=sys.stderr)
        return 1


def _one_line(error: BaseException) -> str:
    """Returns an exception's message on one line; an OSError names its file first."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
