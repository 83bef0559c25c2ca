"""Options of the commands that ask a server: certificates and a token.

Their parameters are named as those of `xec_client.access.Access`, which needs gRPC; this does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ServerCa = Annotated[
    Path | None,
    typer.Option(metavar="PEM", help="Who signed the server's certificate; then TLS is used."),
]
ClientCert = Annotated[
    Path | None, typer.Option(metavar="PEM", help="Our certificate, for the server.")
]
ClientKey = Annotated[Path | None, typer.Option(metavar="PEM", help="Its key.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Holds our token for the server; else XEC_TOKEN does."),
]
