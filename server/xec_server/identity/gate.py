"""The gate that lets a call through if its caller may make it, for as long as they may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from xec_server.calls.call import Call
from xec_server.calls.refusal import Reason, Refusal
from xec_server.identity.credentials import Credentials, credentials_of, unusable_token
from xec_server.identity.register import Holder, Register
from xec_server.identity.rights import OPEN, PUBLIC, Right, right_for

LOOK_SECONDS: Final = 1.0
"""Between two looks at the calls that are open: with the second after which the file is read
again, what was revoked ends within two."""

_NO_NAME: Final = ""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True, eq=False)
class _Open:
    """A call that goes on."""

    task: asyncio.Task[object]
    proof: Credentials
    right: Right
    refusal: Refusal | None = None


class IdentityGate:
    """Knows who calls.

    Args:
        register: who may call, as of now; None: it takes no names, and everybody may do what is
            OPEN. Where client certificates are required, that is everybody who has one.
        now: the time, to which tokens expire.
    """

    def __init__(
        self,
        register: Callable[[], Register] | None = None,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._register, self._now = register, now
        self._open: set[_Open] = set()
        self._look: asyncio.TimerHandle | None = None

    def __call__(self, call: Call) -> AbstractContextManager[None] | None:
        """Let a call through.

        Raises:
            Refusal: its caller is unknown or may not make it, now or from some moment on.
        """
        right = right_for(call.method)
        proof = credentials_of(call.context)
        if right in PUBLIC:
            return None
        holder = self._permitted(proof, right)
        call.caller = holder.name or call.caller
        return None if self._register is None else self._followed(proof, right)

    def _permitted(self, proof: Credentials, right: Right) -> Holder:
        """Who calls, perhaps without a name.

        Raises:
            Refusal: they may not.
        """
        holder = self._holder(proof)
        if right in holder.rights:
            return holder
        who = holder.name or "a caller without a name"
        raise Refusal(
            Reason.PERMISSION_DENIED,
            f"This call needs the right {right.value}, which {who} does not have here: ask who "
            "runs the server.",
        )

    def _holder(self, proof: Credentials) -> Holder:
        if self._register is None:
            return Holder(proof.names[0] if proof.names else _NO_NAME, OPEN)
        register = self._register()
        if proof.digest is None:
            return _by_certificate(register, proof.names)
        holder = register.by_token(proof.digest)
        if holder is None:
            raise unusable_token()
        if holder.expires is not None and self._now() >= holder.expires:
            raise Refusal(
                Reason.TOKEN_EXPIRED,
                f"This token expired on {holder.expires:%Y-%m-%d %H:%M} UTC: ask who runs the "
                "server for another one.",
            )
        return holder

    @contextmanager
    def _followed(self, proof: Credentials, right: Right) -> Iterator[None]:
        """Ends what is inside when the caller may not go on."""
        task = asyncio.current_task()
        if task is None:
            yield
            return
        this = _Open(task, proof, right)
        self._open.add(this)
        self._look_later()
        try:
            yield
        except asyncio.CancelledError:
            if this.refusal is None:
                raise
            task.uncancel()
            raise this.refusal from None
        finally:
            self._open.discard(this)

    def _look_later(self) -> None:
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        for this in self._open:
            try:
                self._permitted(this.proof, this.right)
            except Refusal as refusal:
                if this.refusal is None:
                    this.refusal = refusal
                    this.task.cancel()
        if self._open:
            self._look_later()


def _by_certificate(register: Register, names: tuple[str, ...]) -> Holder:
    if not names and register.everybody:
        return Holder(_NO_NAME, register.everybody)
    if not names:
        raise Refusal(
            Reason.UNAUTHENTICATED,
            "The server does not know who calls: send a token, which who runs it gives out.",
        )
    holder = register.by_certificate(names)
    return Holder(names[0], frozenset()) if holder is None else holder
