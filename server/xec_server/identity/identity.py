"""What a server knows about who calls it: opened once, before anything else starts."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from xec.errors import FileError
from xec.io.private import read_small
from xec_server.calls.call import Gate
from xec_server.identity.gate import IdentityGate
from xec_server.identity.register import Register, parse_register
from xec_server.identity.tls import credentials, tls_files
from xec_server.identity.watched import Watched


@dataclass(frozen=True, slots=True)
class Identity:
    """How callers are known; by default they are not, and may do everything but administer.

    Args:
        gate: before every method.
        credentials: of TLS; None: unencrypted.
        asks_for_names: whether a register says who may do what; without one nobody administers.
    """

    gate: Gate = field(default_factory=IdentityGate)
    credentials: grpc.ServerCredentials | None = None
    asks_for_names: bool = False


def read_register(path: Path) -> Register:
    """The file of who may call.

    Raises:
        FileError: it cannot be read or understood, or anybody may change it.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to open a pipe waits for a writer
        raise FileError(f"{path} is no file of identities: it is a device or a pipe.")
    content = read_small(path)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FileError(f"{path} says who may call, and others can write it: chmod go-w {path}.")
    return parse_register(content, path)


def open_identity(
    cert: Path | None = None,
    key: Path | None = None,
    client_ca: Path | None = None,
    tokens: Path | None = None,
) -> Identity:
    """Make ready what the command line names.

    Args:
        cert: certificate of the server.
        key: its key.
        client_ca: who signs the client certificates that are required then.
        tokens: the file of who may call.

    Raises:
        UsageError: half a pair.
        FileError: a file is unreadable, unfit, or open to others.
    """
    files = tls_files(cert, key, client_ca)
    gate = IdentityGate()
    if tokens is not None:
        path = tokens
        gate = IdentityGate(Watched((path,), lambda: read_register(path), "Identities").get)
    return Identity(gate, None if files is None else credentials(files), tokens is not None)
