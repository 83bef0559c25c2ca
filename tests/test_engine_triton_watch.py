"""What the watch makes of what it sees; Triton itself is scripted here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from xec.engines.triton_watch import Watch
from xec.errors import EngineAway, EngineError, ModelError


@dataclass
class Script:
    """A Triton that does as it is told, and what was done to it."""

    connecting: Exception | None = None
    live: bool = True
    living: Exception | None = None
    answering: Exception | None = None
    meanwhile: Callable[[], None] = lambda: None
    seen: list[str] = field(default_factory=list)

    def connect(self) -> None:
        self.seen.append("connect")
        if self.connecting is not None:
            raise self.connecting

    def is_live(self) -> bool:
        self.seen.append("live")
        self.meanwhile()
        if self.living is not None:
            raise self.living
        return self.live

    def answers(self) -> None:
        self.seen.append("answers")
        if self.answering is not None:
            raise self.answering

    def give_up(self) -> None:
        self.seen.append("give up")


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def watch(script: Script) -> Iterator[Watch]:
    watch = Watch(script, every=0.01, model_every=0.05)
    yield watch
    watch.stop()
    watch.join()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_listener_hears_the_state_and_its_changes(watch: Watch, script: Script) -> None:
    heard: list[bool] = []
    watch.listen(heard.append)
    watch.start()
    script.connecting = EngineAway("gone")
    watch.lost("lost")
    watch.lost("lost again")
    until(lambda: watch.reason == "gone")
    script.connecting = None
    until(lambda: watch.is_ready)
    assert heard == [False, True, False, True]
    assert "give up" in script.seen


@pytest.mark.parametrize("error", [EngineAway("not yet"), EngineError("fails")])
def test_what_may_pass_is_waited_for(error: Exception, watch: Watch, script: Script) -> None:
    script.connecting = error
    watch.start()
    assert (watch.is_ready, watch.reason) == (False, str(error))
    script.connecting = None
    until(lambda: watch.is_ready)


def test_another_model_at_the_start_is_raised(watch: Watch, script: Script) -> None:
    script.connecting = ModelError("another")
    with pytest.raises(ModelError, match="another"):
        watch.start()


def test_another_model_later_is_waited_out(watch: Watch, script: Script) -> None:
    watch.start()
    script.connecting = ModelError("another")
    watch.lost("lost")
    until(lambda: watch.reason == "another")
    script.connecting = None
    until(lambda: watch.is_ready)


def test_one_that_answers_others_meanwhile_is_busy_not_lost(watch: Watch, script: Script) -> None:
    script.live = False
    script.meanwhile = watch.answered
    watch.start()
    until(lambda: script.seen.count("live") > 5)
    assert "give up" not in script.seen
    script.meanwhile = lambda: None  # the control: nobody is answered
    until(lambda: "give up" in script.seen)


def test_golden_events_run_in_silence_and_on_suspicion(watch: Watch, script: Script) -> None:
    watch.start()
    until(lambda: script.seen.count("answers") > 1)
    script.connecting = script.answering = ModelError("wrong")
    watch.suspect()
    until(lambda: not watch.is_ready)
    assert watch.reason == "wrong"


def test_a_defect_does_not_end_the_watch(
    watch: Watch, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    watch.start()
    script.connecting = script.living = RuntimeError("a defect")
    until(lambda: "give up" in script.seen)
    time.sleep(0.05)
    script.connecting = script.living = None
    until(lambda: watch.is_ready)
    assert "RuntimeError: a defect" in caplog.text
