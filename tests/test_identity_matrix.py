"""Every method that a server registers, called by everybody who might: who is let in, over TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from support_client import real_server
from support_identity import DAY, NOW, House, entry, issue, methods_of, outcome, recorded
from support_operator import LETS_ALL_IN
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec_server.address import Address
from xec_server.app import SERVICE, Server
from xec_server.calls.refusal import Refusal
from xec_server.identity.identity import Identity, open_identity
from xec_server.identity.rights import METHODS, Right, right_for
from xec_server.identity.tokens import digest_of
from xec_server.settings import ServerSettings

Outcomes = dict[str, str]


@pytest.fixture(scope="module")
def registered(stub_repository: Path) -> list[set[str]]:
    """The methods of each gRPC server that a server has."""

    async def made() -> list[set[str]]:
        engine = OnnxEngine(stub_repository, OnnxSettings(sessions=1))
        settings = ServerSettings(
            Address(port=0), grace=0, admin=Address(port=0), identity=LETS_ALL_IN
        )
        with recorded(pytest.MonkeyPatch()) as servers:
            server = Server(engine, None, settings)
            await server.stop()
        return [methods_of(recording) for recording in servers]

    return asyncio.run(made())


@pytest.fixture(scope="module")
def methods(registered: list[set[str]]) -> set[str]:
    """Those at the address that callers use."""
    (main,) = [one for one in registered if f"/{SERVICE}/Reconstruct" in one]
    return main


def test_every_registered_method_is_classified(registered: list[set[str]]) -> None:
    everything = set.union(*registered)
    assert len(everything) >= 10
    assert everything <= METHODS.keys()


def test_a_method_that_is_not_classified_would_be_seen(
    registered: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(METHODS, f"/{SERVICE}/GetModel")
    assert set.union(*registered) - METHODS.keys() == {f"/{SERVICE}/GetModel"}
    with pytest.raises(Refusal, match="Nobody may call"):
        right_for(f"/{SERVICE}/GetModel")


@dataclass(frozen=True)
class Place:
    """A server and who can call it."""

    house: House
    address: str
    only: dict[Right, str]
    """A token with this right and no other."""
    lacking: dict[Right, str]
    """One with every other right."""
    expired: str

    def channel(
        self, ca: bytes | None = None, pair: Any = None, *, encrypted: bool = True
    ) -> grpc.Channel:
        if not encrypted:
            return grpc.insecure_channel(self.address)
        shown = (None, None) if pair is None else (pair.key_pem, pair.cert_pem)
        trusted = self.house.authority.cert_pem if ca is None else ca
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(trusted, *shown))


def place_at(house: House, address: str, tokens: dict[str, str]) -> Place:
    only = {right: tokens[f"only-{right}"] for right in Right}
    lacking = {right: tokens[f"not-{right}"] for right in Right}
    return Place(house, address, only, lacking, tokens["expired"])


def written(house: House) -> dict[str, str]:
    """A register with tokens and certificates for every case; the tokens by name."""
    tokens, kept = {}, []
    wanted: list[tuple[str, set[Right], dict[str, str]]] = [
        ("expired", set(Right), {"expires": (NOW - DAY).isoformat()})
    ]
    for right in Right:
        wanted.append((f"only-{right}", {right}, {}))
        wanted.append((f"not-{right}", set(Right) - {right}, {}))
    for name, held, others in wanted:
        tokens[name], one = entry(name, *held, **others)
        kept.append(one)
    certificates = [
        {"name": f"{name}.cert", "rights": sorted(held)} for name, held, _ in wanted[1:]
    ]
    house.write_register(kept, certificates)
    return tokens


@pytest.fixture(scope="module")
def place(stub_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """TLS and tokens."""
    house = House(tmp_path_factory.mktemp("tokens"))
    tokens = written(house)
    identity = open_identity(*house.server_files(), tokens=house.register)
    with real_server(stub_repository, identity=identity) as address:
        yield place_at(house, address, tokens)


@pytest.fixture(scope="module")
def mutual(stub_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """TLS with client certificates, and tokens."""
    house = House(tmp_path_factory.mktemp("mutual"))
    tokens = written(house)
    identity = open_identity(*house.server_files(), house.ca, house.register)
    with real_server(stub_repository, identity=identity) as address:
        yield place_at(house, address, tokens)


def called(
    channel: grpc.Channel, methods: set[str], token: Callable[[Right], str | None]
) -> Outcomes:
    with channel:
        return {one: outcome(channel, one, token(METHODS[one])) for one in sorted(methods)}


def nobody(right: Right) -> None:
    return None


def all_of(methods: set[str], what: str) -> Outcomes:
    return dict.fromkeys(sorted(methods), what)


def unless_public(methods: set[str], what: str) -> Outcomes:
    """The public methods are named here a second time: health and nothing else."""
    return {
        one: "passed" if one.startswith("/grpc.health.v1.Health/") else what
        for one in sorted(methods)
    }


def test_without_tls_nothing_is_answered(place: Place, methods: set[str]) -> None:
    found = called(place.channel(encrypted=False), methods, place.only.get)
    assert found == all_of(methods, "UNAVAILABLE")


def test_a_client_that_trusts_another_authority_does_not_talk(
    place: Place, methods: set[str]
) -> None:
    found = called(place.channel(issue("other").cert_pem), methods, place.only.get)
    assert found == all_of(methods, "UNAVAILABLE")


TOKENS: dict[str, tuple[Callable[[Place], Callable[[Right], str | None]], str]] = {
    "no token": (lambda place: nobody, "UNAUTHENTICATED"),
    "wrong token": (lambda place: lambda right: "xec_" + "A" * 43, "UNAUTHENTICATED"),
    "expired token": (lambda place: lambda right: place.expired, "UNAUTHENTICATED"),
    "a digest as token": (
        lambda place: lambda right: digest_of(place.only[right]),
        "UNAUTHENTICATED",
    ),
    "token of other rights": (lambda place: place.lacking.get, "PERMISSION_DENIED"),
    "token of the right": (lambda place: place.only.get, "passed"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_tokens(place: Place, methods: set[str], case: str) -> None:
    token, expected = TOKENS[case]
    found = called(place.channel(), methods, token(place))
    assert found == unless_public(methods, expected)


def test_without_the_gate_everybody_is_let_in(
    place: Place, methods: set[str], stub_repository: Path
) -> None:
    """The control: each of the refusals above is the gate's doing."""
    identity = open_identity(*place.house.server_files(), tokens=place.house.register)
    without = Identity(lambda call: nullcontext(), identity.credentials)
    with real_server(stub_repository, identity=without) as address:
        open_place = replace(place, address=address)
        for token, expected in TOKENS.values():
            found = called(open_place.channel(), methods, token(open_place))
            assert found == all_of(methods, "passed")
            assert expected == "passed" or found != unless_public(methods, expected)


CERTIFICATES: dict[str, tuple[Callable[[House], Any], str]] = {
    "no certificate": (lambda house: None, "UNAVAILABLE"),
    "of another authority": (
        lambda house: issue("only-info.cert", issue("other")),
        "UNAVAILABLE",
    ),
    "expired certificate": (
        lambda house: issue("only-info.cert", house.authority, until=NOW - DAY),
        "UNAVAILABLE",
    ),
    "certificate without rights": (
        lambda house: issue("stranger", house.authority),
        "PERMISSION_DENIED",
    ),
}


@pytest.mark.parametrize("case", CERTIFICATES)
def test_client_certificates(mutual: Place, methods: set[str], case: str) -> None:
    make, expected = CERTIFICATES[case]
    found = called(mutual.channel(pair=make(mutual.house)), methods, nobody)
    everybody = all_of if expected == "UNAVAILABLE" else unless_public
    assert found == everybody(methods, expected)


@pytest.mark.parametrize("prefix", ["only", "not"])
@pytest.mark.parametrize("alternative", [False, True])
def test_rights_of_a_certificate(
    mutual: Place, methods: set[str], prefix: str, alternative: bool
) -> None:
    """By an alternative name; by the common name where there is none."""
    found = {}
    for right in {METHODS[method] for method in methods}:
        name = f"{prefix}-{right}.cert"
        names = {"alternatives": [name]} if alternative else {}
        pair = issue("any" if alternative else name, mutual.house.authority, **names)
        those = {method for method in methods if METHODS[method] is right}
        found |= called(mutual.channel(pair=pair), those, nobody)
    expected = "passed" if prefix == "only" else "PERMISSION_DENIED"
    assert found == unless_public(methods, expected)


def test_a_token_decides_where_there_is_a_certificate_too(mutual: Place, methods: set[str]) -> None:
    stranger = issue("stranger", mutual.house.authority)
    found = called(mutual.channel(pair=stranger), methods, mutual.only.get)
    assert found == all_of(methods, "passed")
    known = issue("only-info.cert", mutual.house.authority)
    found = called(mutual.channel(pair=known), methods, lambda right: "xec_wrong")
    assert found == unless_public(methods, "UNAUTHENTICATED")
