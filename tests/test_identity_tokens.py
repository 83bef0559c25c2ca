"""`xec tokens` and the file that it keeps."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from support_identity import House
from xec.errors import FileError, UsageError
from xec_server.identity.command import app
from xec_server.identity.identity import read_register
from xec_server.identity.register import Register, parse_register, write_register
from xec_server.identity.rights import Right
from xec_server.identity.tokens import digest_of, new_token


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def tokens(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def new(file: Path, name: str = "daq", *more: object) -> str:
    rights = () if "--rights" in more else ("--rights", "reconstruct,info")
    made = tokens("new", name, "--file", file, *rights, *more)
    assert made.exit_code == 0, made.output
    return made.stdout.strip()


def test_a_token_is_printed_once_and_only_its_digest_kept(file: Path) -> None:
    token = new(file)
    assert re.fullmatch(r"xec_[A-Za-z0-9_-]{43}", token)
    content = file.read_text()
    assert token not in content
    assert token.removeprefix("xec_") not in content
    assert hashlib.sha256(token.encode()).hexdigest() in content
    register = read_register(file)
    holder = register.by_token(digest_of(token))
    assert holder is not None
    assert (holder.name, holder.expires) == ("daq", None)
    assert holder.rights == {Right.RECONSTRUCT, Right.INFO}
    assert register.by_token(digest_of(token + "A")) is None


def test_tokens_are_random(file: Path) -> None:
    assert len({new_token() for _ in range(1000)}) == 1000


def test_one_name_may_have_several_tokens_while_one_replaces_the_other(file: Path) -> None:
    first, second = new(file), new(file, "daq", "--expires", 30)
    listed = tokens("list", "--file", file).stdout.splitlines()
    assert len(listed) == 2
    assert all(line.startswith("daq  token ") and "info,reconstruct" in line for line in listed)
    assert "until revoked" in listed[0]
    assert "UTC" in listed[1]
    gone = tokens("revoke", "daq", "--file", file, "--id", digest_of(first)[:8])
    assert gone.exit_code == 0
    register = read_register(file)
    assert register.by_token(digest_of(first)) is None
    assert register.by_token(digest_of(second)) is not None
    assert tokens("revoke", "daq", "--file", file).exit_code == 0
    assert read_register(file).tokens == ()


def test_an_expired_token_is_marked(file: Path) -> None:
    new(file, "shift", "--expires", 0)
    assert "EXPIRED" in tokens("list", "--file", file).stdout


def test_certificates_are_permitted_by_name(file: Path) -> None:
    for rights in ("info", "reconstruct,info"):
        done = tokens("permit", "daq.example.org", "--file", file, "--rights", rights)
        assert done.exit_code == 0
    (holder,) = read_register(file).certificates
    assert holder.rights == {Right.RECONSTRUCT, Right.INFO}
    assert "daq.example.org  certificate" in tokens("list", "--file", file).stdout
    assert tokens("revoke", "daq.example.org", "--file", file).exit_code == 0
    assert read_register(file).certificates == ()


REFUSED: list[tuple[tuple[object, ...], type[Exception], str]] = [
    (("new", "daq", "--rights", "everything"), UsageError, "not everything"),
    (("new", "daq", "--rights", ""), UsageError, "rights are reconstruct"),
    (("new", "a b", "--rights", "info"), UsageError, "a name consists of"),
    (("new", "x" * 200, "--rights", "info"), UsageError, "a name consists of"),
    (("revoke", "nobody"), UsageError, "has nobody named nobody"),
    (("revoke", "known", "--id", "00000000"), UsageError, "with id 00000000"),
    (("permit", "known", "--rights", "info"), UsageError, "have the same name"),
]


@pytest.mark.parametrize(("arguments", "kind", "sentence"), REFUSED)
def test_what_cannot_be_is_refused_and_changes_nothing(
    file: Path, arguments: tuple[object, ...], kind: type[Exception], sentence: str
) -> None:
    new(file, "known")
    before = file.read_bytes()
    result = tokens(*arguments, "--file", file)
    assert isinstance(result.exception, kind)
    assert sentence in str(result.exception)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_file_of_another_kind_is_not_written_over(file: Path) -> None:
    file.write_text("not ours")
    result = tokens("new", "daq", "--file", file, "--rights", "info")
    assert isinstance(result.exception, FileError)
    assert file.read_text() == "not ours"


def test_a_pipe_is_not_waited_for(file: Path) -> None:
    os.mkfifo(file, 0o600)
    with pytest.raises(FileError, match="a device or a pipe"):
        read_register(file)


def test_a_circle_of_links_is_no_defect(file: Path) -> None:
    file.symlink_to(file.name)
    with pytest.raises(FileError, match="symbolic links"):
        read_register(file)
    new(file)  # it led nowhere
    assert len(read_register(file).tokens) == 1


def test_a_token_that_could_not_be_printed_is_named(file: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer, "echo", refuse)
        result = tokens("new", "daq", "--file", file, "--rights", "info")
    (entry,) = read_register(file).tokens
    assert isinstance(result.exception, FileError)
    assert f"The token {entry.id} of daq is in {file} and cannot be printed" in str(
        result.exception
    )


def test_the_file_keeps_its_mode(file: Path) -> None:
    new(file)
    assert file.stat().st_mode & 0o777 == 0o644
    file.chmod(0o600)
    new(file)
    assert file.stat().st_mode & 0o777 == 0o600


def _make(file: Path, name: str) -> None:
    tokens("new", name, "--file", file, "--rights", "info")


def test_writers_at_the_same_time_lose_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new(file, "first")

    def slowly(path: Path) -> Register:
        register = read_register(path)
        time.sleep(0.02)  # for another one to write meanwhile, if it could
        return register

    monkeypatch.setattr("xec_server.identity.identity.read_register", slowly)
    context = multiprocessing.get_context("fork")
    makers = [context.Process(target=_make, args=(file, f"user-{n}")) for n in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    names = {one.holder.name for one in read_register(file).tokens}
    assert names == {"first", *(f"user-{n}" for n in range(8))}


GOOD: dict[str, Any] = {
    "format": "xec-identities/1",
    "tokens": [{"name": "daq", "sha256": "0" * 64, "rights": ["info"]}],
    "certificates": [{"name": "shift", "rights": ["admin"]}],
}
TOKEN, CERTIFICATE = GOOD["tokens"][0], GOOD["certificates"][0]
DAMAGE: list[tuple[Any, str]] = [
    ([], "the file is no object"),
    ({"tokens": []}, "'format' is missing"),
    ({**GOOD, "format": "xec-identities/2"}, "its format is not"),
    ({**GOOD, "revoked": []}, "other fields"),
    ({**GOOD, "tokens": {}}, "tokens is no list"),
    ({**GOOD, "tokens": [TOKEN, TOKEN]}, "listed twice"),
    ({**GOOD, "tokens": [{**TOKEN, "sha256": "xec_secret"}]}, "64 hexadecimal"),
    ({**GOOD, "tokens": [{**TOKEN, "rights": ["all"]}]}, "not all"),
    ({**GOOD, "tokens": [{**TOKEN, "rights": []}]}, "not none"),
    ({**GOOD, "tokens": [{**TOKEN, "rights": "info"}]}, "no list"),
    ({**GOOD, "tokens": [{**TOKEN, "rights": [1]}]}, "no list of words"),
    ({**GOOD, "tokens": [{**TOKEN, "token": "xec_secret"}]}, "other fields"),
    ({**GOOD, "tokens": [{**TOKEN, "expires": "soon"}]}, "Invalid isoformat|no time"),
    ({**GOOD, "tokens": [{**TOKEN, "expires": "2027-01-01"}]}, "no time zone"),
    ({**GOOD, "tokens": [{**TOKEN, "expires": 2027}]}, "no time"),
    ({**GOOD, "tokens": [{**TOKEN, "name": "a\nb"}]}, "a name consists of"),
    ({**GOOD, "certificates": [CERTIFICATE] * 2}, "listed twice"),
    ({**GOOD, "certificates": [{**CERTIFICATE, "name": "daq"}]}, "the same name"),
    ({**GOOD, "certificates": ["shift"]}, "no object"),
]


@pytest.mark.parametrize(("document", "sentence"), DAMAGE)
def test_a_damaged_file_is_refused_whole(document: Any, sentence: str) -> None:
    """What is not understood is not skipped: it might take a right away."""
    parse_register(json.dumps(GOOD).encode(), "tokens.json")  # the control
    with pytest.raises(FileError, match=sentence) as caught:
        parse_register(json.dumps(document).encode(), "tokens.json")
    assert "xec_secret" not in str(caught.value)


def test_what_is_written_is_what_is_read() -> None:
    text = {"created": "2026-01-01T00:00:00+00:00", "expires": "2027-01-01T00:00:00+00:00"}
    register = parse_register(
        json.dumps({**GOOD, "tokens": [{**TOKEN, **text}]}).encode(), "tokens.json"
    )
    assert parse_register(write_register(register), "tokens.json") == register
    assert "2027-01-01" in write_register(register).decode()


def test_a_register_without_anybody_lets_nobody_in(tmp_path: Path) -> None:
    register = read_register(House(tmp_path).write_register([]))
    assert register.by_token(digest_of("")) is None
    assert register.by_certificate([""]) is None
