"""`xec tokens`: make, list and revoke what proves who calls a server."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xec.cli import Command
from xec.errors import FileError, UsageError

if TYPE_CHECKING:
    from xec_server.identity.register import Register
    from xec_server.identity.rights import Right

app = typer.Typer(
    no_args_is_help=True,
    help="Who may call a server: names, rights and tokens, of which only digests are kept.\n\n"
    "Example: xec tokens new daq --file tokens.json --rights reconstruct,info --expires 365",
)

TheFile = Annotated[Path, typer.Option("--file", metavar="FILE", help="As xec serve --tokens.")]
TheRights = Annotated[
    str,
    typer.Option(metavar="RIGHT,...", help="Of reconstruct, info, reflection, admin, health."),
]
_MOST_DAYS = 36_500


def _rights(text: str) -> frozenset[Right]:
    from xec_server.identity.register import parse_rights  # noqa: PLC0415

    try:
        return parse_rights(word.strip() for word in text.split(","))
    except ValueError as error:
        raise UsageError(f"--rights {text[:60]}: {error}.") from error


def _name(text: str) -> str:
    from xec_server.identity.register import check_name  # noqa: PLC0415

    try:
        return check_name(text)
    except ValueError as error:
        raise UsageError(f"{text[:60]!r} is no name here: {error}.") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time; the lock is on the folder, as the file is replaced."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _change(path: Path, change: Callable[[Register], Register]) -> None:
    """Replace the file by a changed one; it may be missing, and keeps its owner and mode."""
    from xec.io.output import replacing, writing  # noqa: PLC0415
    from xec_server.identity.identity import read_register  # noqa: PLC0415
    from xec_server.identity.register import Register, parse_register, write_register  # noqa: PLC0415

    path = Path(os.path.realpath(path))  # a link stays one; `resolve` would raise on a circle
    with _locked(path):
        was = path.stat() if path.exists() else None
        register = Register() if was is None else read_register(path)
        content = write_register(change(register))
        try:
            parse_register(content, path)
        except FileError as error:  # so that no server is given what it would refuse
            raise UsageError(f"That cannot be: {error}") from error
        with replacing(path) as file, writing(path):
            file.write(content)
            os.fchmod(file.fileno(), 0o644 if was is None else was.st_mode & 0o777)
            if was is not None and was.st_uid != os.geteuid():
                os.fchown(file.fileno(), was.st_uid, was.st_gid)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Who will use the token, as logs will call them.")],
    *,
    file: TheFile,
    rights: TheRights,
    expires: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS", min=0, max=_MOST_DAYS, help="Good for so long; else until revoked."
        ),
    ] = None,
) -> None:
    """Make a token and print it: once, as the file keeps only its digest.

    Example: xec tokens new daq --file tokens.json --rights reconstruct,info > daq.token
    """
    from xec_server.identity.register import Holder, TokenEntry  # noqa: PLC0415
    from xec_server.identity.tokens import digest_of, new_token  # noqa: PLC0415

    created = datetime.now(UTC)
    end = None if expires is None else created + timedelta(days=expires)
    token = new_token()
    holder = Holder(_name(name), _rights(rights), end)
    entry = TokenEntry(holder, digest_of(token), created)
    _change(file, lambda register: replace(register, tokens=(*register.tokens, entry)))
    try:
        typer.echo(token)
    except OSError as error:
        raise FileError(
            f"The token {entry.id} of {name} is in {file} and cannot be printed "
            f"({error.strerror or error}): revoke it."
        ) from error
    until = "until it is revoked" if end is None else f"until {end:%Y-%m-%d %H:%M} UTC"
    typer.echo(f"xec tokens: {name} ({entry.id}) in {file}, good {until}", err=True)


@app.command()
def permit(
    name: Annotated[
        str,
        typer.Argument(
            help="In the certificate: an alternative name, or CN. everybody: who has no name."
        ),
    ],
    *,
    file: TheFile,
    rights: TheRights,
) -> None:
    """Give rights to who has a client certificate with this name, instead of those it had.

    Example: xec tokens permit daq.example.org --file tokens.json --rights reconstruct,info
    """
    from xec_server.identity.register import EVERYBODY, Holder  # noqa: PLC0415

    wanted = _rights(rights)
    if name == EVERYBODY:
        _change(file, lambda register: replace(register, everybody=wanted))
        typer.echo(f"xec tokens: who has no name may {rights}", err=True)
        return
    holder = Holder(_name(name), wanted)

    def change(register: Register) -> Register:
        others = tuple(one for one in register.certificates if one.name != name)
        return replace(register, certificates=(*others, holder))

    _change(file, change)
    typer.echo(f"xec tokens: certificates of {name} may {rights}", err=True)


@app.command("list")
def show(*, file: TheFile) -> None:
    """Who may call, and until when.

    Example: xec tokens list --file tokens.json
    """
    from xec_server.identity.identity import read_register  # noqa: PLC0415

    register = read_register(file)
    now = datetime.now(UTC)
    for entry in register.tokens:
        end = entry.holder.expires
        until = "until revoked" if end is None else f"until {end:%Y-%m-%d %H:%M} UTC"
        state = "  EXPIRED" if end is not None and end <= now else ""
        rights = ",".join(sorted(entry.holder.rights))
        typer.echo(f"{entry.holder.name}  token {entry.id}  {rights}  {until}{state}")
    for holder in register.certificates:
        typer.echo(f"{holder.name}  certificate  {','.join(sorted(holder.rights))}")
    if register.everybody:
        typer.echo(f"everybody  without a name  {','.join(sorted(register.everybody))}")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Whose tokens, or certificate.")],
    *,
    file: TheFile,
    token_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Only this token of them.")
    ] = None,
) -> None:
    """Take all rights from a name; running servers know within two seconds.

    Example: xec tokens revoke daq --file tokens.json --id 1a2b3c4d
    """
    from xec_server.identity.register import EVERYBODY, Register  # noqa: PLC0415

    gone = 0

    def change(register: Register) -> Register:
        nonlocal gone
        tokens = tuple(
            entry
            for entry in register.tokens
            if entry.holder.name != name or token_id not in {None, entry.id}
        )
        certificates = tuple(
            one for one in register.certificates if one.name != name or token_id is not None
        )
        gone = len(register.tokens) - len(tokens)
        gone += len(register.certificates) - len(certificates)
        everybody = register.everybody
        if name == EVERYBODY and everybody:
            gone, everybody = 1, frozenset()
        if not gone:
            which = "" if token_id is None else f" with id {token_id[:60]}"
            raise UsageError(f"{file} has nobody named {name[:60]}{which}: see xec tokens list.")
        return Register(tokens, certificates, everybody)

    _change(file, change)
    typer.echo(f"xec tokens: {gone} revoked", err=True)


COMMAND = Command(run=app, needs=("grpc", "google.rpc"), extra="server")
