"""The lineage of results: what decides them, as one key; equal keys and inputs, equal results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from xec import __version__
from xec.contract import CONTRACT_VERSION
from xec.lineage import digest
from xec_client.reprocess.sources import Source

LINEAGE_FORMAT: Final = "xec-lineage/1"
KEY_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the results of an input, besides the input itself.

    The batch size belongs to it because the last bit of an answer can depend on an event's place
    in its batch; the number of cores and workers does not.

    Args:
        model_sha256: of the model's bytes.
        engine: ``onnx`` in this process, or ``server`` and what it says of its engine.
        dead_list_id: of the list that was given; else the server's own, or that lists are by run;
            empty where each file tells.
        suffix: of the parts, ``.parquet`` or ``.root``.
        part_events: events of a part.
        batch_size: events that are reconstructed together.
        identity: by what inputs are recognised.
        software_version: of this program.
        contract_version: of the model's tensors.
    """

    model_sha256: str
    engine: str
    dead_list_id: str
    suffix: str
    part_events: int
    batch_size: int
    identity: str
    software_version: str = __version__
    contract_version: str = CONTRACT_VERSION

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, with the format."""
        return {"format": LINEAGE_FORMAT, **asdict(self)}

    @property
    def key(self) -> str:
        """The name of the folder of this lineage."""
        return digest(self.as_dict())[:KEY_DIGITS]


def lineage_of(recipe: Recipe, source: Source) -> str:
    """The lineage of the results of one input."""
    return digest([recipe.as_dict(), source.identity])[:KEY_DIGITS]


def part_name(recipe: Recipe, source: Source, first: int) -> str:
    """The name of the part that begins with entry `first`, the same whoever writes it and when."""
    return f"{source.name}.{first:012d}.{lineage_of(recipe, source)}{recipe.suffix}"
