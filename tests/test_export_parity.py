"""The parity report: what it compares, and that it notices what must not happen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from conftest import random_events, stub_answers
from xec.contract import MODELS, OUTPUTS, outputs_of
from xec.detector.channels import N_CHANNELS
from xec.engines.base import tensors_of
from xec.errors import ModelError
from xec_export.parity_cases import SHUFFLED, parity_cases
from xec_export.parity_report import REFERENCE, parity_as_dict, parity_report, require_agreement

Tensors = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def fresh() -> dict[str, Any]:
    return dict(tensors_of(random_events(64)))


def right(inputs: Tensors) -> dict[str, np.ndarray]:
    """A function of valid readings only, each event by itself."""
    npho, time = (np.where(inputs[f"{n}_valid"] > 0, inputs[n], 0) for n in ("npho", "time"))
    answers = stub_answers({**inputs, "npho": npho, "time": time})
    return {name: value.astype(np.float32) for name, value in answers.items()}


def test_an_engine_that_is_right_agrees_everywhere(fresh: dict[str, Any]) -> None:
    rows = parity_report(right, {"other": right}, fresh)
    assert {row.case for row in rows if row.engine == "other"} == set(parity_cases(fresh))
    assert require_agreement(rows).relative == 0.0


def test_cases_are_what_they_say(fresh: dict[str, Any]) -> None:
    cases = parity_cases(fresh)
    assert [len(cases[f"batch {n}"]["npho"]) for n in (1, 7, 64)] == [1, 7, 64]
    dead = cases["an all-dead face"]["npho_valid"]
    assert (dead[0, :4092] == 0).all()
    assert not dead[-1].any()
    assert cases["no dead sensor"]["npho_valid"].all()
    assert cases["no light"]["npho_valid"].sum(axis=1).tolist() == [1, N_CHANNELS]
    marked = cases["markers where invalid"]
    hidden = marked["npho_valid"] == 0
    assert set(marked["npho"][hidden][:3].tolist()[::2]) == {np.float32(1e10), -999.0}
    assert np.isnan(marked["npho"][hidden]).any()
    assert np.array_equal(marked["npho"][~hidden], fresh["npho"][:7][~hidden])
    shuffled = cases[SHUFFLED]["npho"]
    assert not np.array_equal(shuffled, fresh["npho"][:7])
    assert np.array_equal(np.sort(shuffled.sum(1)), np.sort(fresh["npho"][:7].sum(1)))


def worst_case(reference: Any, engine: Any, fresh: dict[str, Any]) -> tuple[str, str]:
    rows = parity_report(reference, {"engine": engine}, fresh)
    with pytest.raises(ModelError, match="differs from PyTorch"):
        require_agreement(rows)
    worst = max(rows, key=lambda row: row.relative)
    return worst.engine, worst.case


def test_a_reading_that_leaks_from_where_nothing_is_valid_is_noticed(fresh) -> None:
    """In the reference itself: engines that agree in being wrong would not show it."""

    def leaks(inputs: Tensors) -> dict[str, np.ndarray]:
        answers = right(inputs)
        hidden = np.nan_to_num(np.where(inputs["npho_valid"] > 0, 0, inputs["npho"]))
        answers["energy"] = answers["energy"] + 1e-6 * hidden.sum(1, keepdims=True)
        return answers

    assert worst_case(leaks, leaks, fresh) == (REFERENCE, "markers where invalid")


def test_an_answer_that_depends_on_its_batch_mates_is_noticed(fresh) -> None:
    def mixes(inputs: Tensors) -> dict[str, np.ndarray]:
        answers = right(inputs)
        answers["uvw"] = answers["uvw"] + np.arange(len(answers["uvw"]))[:, None]
        return answers

    assert worst_case(mixes, mixes, fresh) == (REFERENCE, SHUFFLED)


@pytest.mark.parametrize("output", [t.name for t in OUTPUTS])
def test_one_wrong_output_of_one_event_is_noticed(fresh, output: str) -> None:
    def wrong(inputs: Tensors) -> dict[str, np.ndarray]:
        answers = right(inputs)
        answers[output][-1, -1] *= np.float32(1.01)
        answers[output][-1, -1] += np.float32(0.01)
        return answers

    rows = parity_report(right, {"wrong": wrong}, fresh)
    worst = max(rows, key=lambda row: row.relative)
    assert (worst.engine, worst.output) == ("wrong", output)
    assert worst.relative > 1e-4


def test_nan_is_never_agreement(fresh) -> None:
    def nan(inputs: Tensors) -> dict[str, np.ndarray]:
        return {name: np.full_like(value, np.nan) for name, value in right(inputs).items()}

    with pytest.raises(ModelError, match="differs from PyTorch"):
        require_agreement(parity_report(right, {"nan": nan}, fresh))


@pytest.mark.parametrize("name", MODELS)
def test_a_half_is_compared_by_its_own_outputs(fresh, name: str) -> None:
    wanted = {t.name for t in outputs_of(name)}

    def half(inputs: Tensors) -> dict[str, np.ndarray]:
        return {output: value for output, value in right(inputs).items() if output in wanted}

    rows = parity_report(right, {"half": half}, fresh, name)
    assert {row.output for row in rows} <= wanted
    assert parity_as_dict(rows)["rows"][0]["engine"] == REFERENCE
