"""TLS of the server: its files are checked before they are used, at the start and when renewed."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from xec.errors import FileError, UsageError
from xec.io.private import read_private, read_small
from xec_server.identity.watched import Watched


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files, PEM.

    Args:
        cert: of the server, with what leads from it to its authority.
        key: its key.
        client_ca: who signs client certificates, which are required then; None: they are not.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        given = (self.cert, self.key, self.client_ca)
        return tuple(path for path in given if path is not None)


def tls_files(cert: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """The files that the command line names; None where it names none.

    Raises:
        UsageError: some are missing.
    """
    if cert is None and key is None:
        if client_ca is not None:
            raise UsageError("--tls-client-ca needs --tls-cert and --tls-key.")
        return None
    if cert is None or key is None:
        raise UsageError("--tls-cert and --tls-key belong together: give both.")
    return TlsFiles(cert, key, client_ca)


def checked_configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """What the files say, after a handshake of the server with itself.

    Raises:
        FileError: a file is unreadable or none of its kind, the key can be read by others or does
            not belong to the certificate, or the certificate is not valid today.
    """
    key, cert = read_private(files.key), read_small(files.cert)
    _shake_hands(_server_side(files), files.cert, cert)
    client_ca = None
    if files.client_ca is not None:
        client_ca = read_small(files.client_ca)
        _trusting(client_ca, files.client_ca)
    if (read_private(files.key), read_small(files.cert)) != (key, cert):
        raise FileError(f"{files.cert} and {files.key} are just being replaced: try again.")
    return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca)


def _server_side(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.cert, files.key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise FileError(
                f"{files.key} is not the key of the certificate {files.cert}: give a pair."
            ) from error
        raise FileError(
            f"{files.cert} and {files.key} are no certificate and unencrypted key in PEM "
            f"({error.reason or 'no PEM'})."
        ) from error
    except (OSError, ValueError) as error:
        raise FileError(f"{files.key} cannot be used as a key without a password.") from error
    return context


def _trusting(pem: bytes, path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise FileError(f"{path} holds no certificate in PEM.") from error
    return context


def _shake_hands(server: ssl.SSLContext, path: Path, pem: bytes) -> None:
    """Let the certificate be judged as by a client that trusts it: OpenSSL knows the rules."""
    client = _trusting(pem, path)
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    try:
        while ends:
            ends = [end for end in ends if not _is_done(end)]
    except ssl.SSLCertVerificationError as error:
        raise FileError(
            f"{path} is no certificate that clients accept today: {error.verify_message}."
        ) from error
    except ssl.SSLError as error:
        raise FileError(f"{path} cannot be used for TLS: {error.reason}.") from error


def _is_done(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """TLS from 1.2 on; renewed files count from the next connection on, without a restart.

    Raises:
        FileError: as `checked_configuration`; later that is logged, and the old files count.
    """
    watched = Watched(files.paths, lambda: checked_configuration(files), "TLS certificates")
    return grpc.dynamic_ssl_server_credentials(
        watched.get(),
        watched.get,
        require_client_authentication=files.client_ca is not None,
    )
