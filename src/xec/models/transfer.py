"""Handing weights from one stage of training to the next.

A pretrained encoder goes to the inpainter's encoder, an inpainter whole to the regressor. What is
new in the next stage (heads, inserted attention, another code of positions, an encoder of the
spreads) starts fresh; everything else must be there with its shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from xec.errors import ModelError
from xec.models.checkpoint import Stage

ENCODER: Final = "encoder."
SPREAD_ENCODER: Final = "spread_encoder."
# Parts of an encoder that may be inserted later: attention starts as the identity.
INSERTED: Final = (".gate.", ".mixers.", "fusion.positions")
NEW_PARTS: Final = (SPREAD_ENCODER, "spread_noise.")


@dataclass(frozen=True, slots=True)
class HandedOver:
    """How many tensors were taken from the earlier stage, and which ones start fresh."""

    taken: int
    fresh: tuple[str, ...]


def hand_over(state: Mapping[str, Tensor], stage: Stage, model: nn.Module) -> HandedOver:
    """Load what an earlier stage knows into a fresh network, in place.

    Args:
        state: weights of the earlier stage.
        stage: which it was.
        model: the next stage's network.

    Raises:
        ModelError: when a tensor that must be there is missing or has another shape.
    """
    wanted = model.state_dict()
    source = _with_spread_encoder(state, wanted)
    found: dict[str, Tensor] = {}
    fresh: list[str] = []
    for name, value in wanted.items():
        given = source.get(name)
        if given is not None and given.shape == value.shape:
            found[name] = given
        elif _may_be_new(name, stage):
            fresh.append(name)
        else:
            raise ModelError(_sentence(name, value, given))
    model.load_state_dict(found, strict=False)
    return HandedOver(len(found), tuple(fresh))


def _with_spread_encoder(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The same with the encoder copied to the spreads' own one, where the network has one."""
    copies = {
        SPREAD_ENCODER + name.removeprefix(ENCODER): value
        for name, value in state.items()
        if name.startswith(ENCODER)
    }
    return {**{n: v for n, v in copies.items() if n in wanted}, **state}


def _may_be_new(name: str, stage: Stage) -> bool:
    if name.startswith(NEW_PARTS) or any(part in name for part in INSERTED):
        return True
    return stage == "pretrain" and not name.startswith(ENCODER)


def _sentence(name: str, value: Tensor, given: Tensor | None) -> str:
    if given is None:
        return f"The checkpoint to start from has no {name}: it is of another kind of network."
    return (
        f"The checkpoint to start from is of another size: {name} is {tuple(given.shape)} there "
        f"and {tuple(value.shape)} here; use the same model.preset."
    )
