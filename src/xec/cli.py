"""The `xec` command. Each package brings its subcommands as entry points named `xec.commands`."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import FrameType
from typing import Any, Final, NoReturn

import typer
from rich.console import Console

from xec import __version__
from xec.errors import FileError, UsageError, XecError

GROUP: Final = "xec.commands"

_REFUSALS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# Whatever follows the name of a refused command is swallowed, so that the refusal is all one sees.
_ANY_ARGUMENTS: Final = {"allow_extra_args": True, "ignore_unknown_options": True}


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # the package that would hold it is missing, or refuses to be imported
        return False


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand that a package contributes.

    Args:
        run: the typer function, or an application of several subcommands; what is heavy is
            imported only when one is called.
        needs: modules without which it cannot run; the command is hidden where they are missing.
        extra: the extra of the distribution that installs them.
    """

    run: Callable[..., Any] | typer.Typer
    needs: tuple[str, ...]
    extra: str

    @property
    def missing(self) -> tuple[str, ...]:
        """The needed modules that are not installed."""
        return tuple(module for module in self.needs if not _installed(module))


def _refusal(name: str, command: Command) -> Callable[[], None]:
    def refuse() -> None:
        raise UsageError(
            f"xec {name} needs {', '.join(command.missing)}: "
            f"pip install 'xec-reconstruct[{command.extra}]'."
        )

    return refuse


def _add(app: typer.Typer, entry: EntryPoint) -> None:
    command: Command = entry.load()
    if command.missing:
        app.command(
            entry.name, hidden=True, add_help_option=False, context_settings=_ANY_ARGUMENTS
        )(_refusal(entry.name, command))
    elif isinstance(command.run, typer.Typer):
        app.add_typer(command.run, name=entry.name)
    else:
        app.command(entry.name)(command.run)


def _show_version(show: bool) -> None:
    if show:
        typer.echo(f"xec {__version__}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The application with the subcommands of every installed package."""
    app = typer.Typer(
        name="xec",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        help="Reconstruct events of the MEG II liquid-xenon gamma detector.",
    )

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", callback=_show_version, is_eager=True, help="Print the version."
        ),
    ) -> None:
        del version

    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        _add(app, entry)
    return app


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End by an exception, so that half-written files are removed on the way out."""
    del frame
    sys.exit(128 + number)


def _say(sentence: str) -> None:
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"xec: {sentence}")


def _output_refuses(error: OSError) -> bool:
    """Whether it is standard output that takes nothing more; then nothing more is tried."""
    if error.errno not in _REFUSALS:
        return False
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def main() -> None:
    """Run the command line; a known error becomes one sentence and its exit code."""
    signal.signal(signal.SIGTERM, _end)
    try:
        build_app()()
    except XecError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if not _output_refuses(error):
            raise
        _say(f"What is printed cannot be written: {error.strerror or error}.")
        sys.exit(FileError.exit_code)
