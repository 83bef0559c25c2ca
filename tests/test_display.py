"""The picture of an event: each value in its colour, dead sensors marked, texts that are true."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from support_display import (
    DEAD,
    REFUSED,
    event,
    full_picture,
    measured_picture,
    reconstruction,
    reference,
)
from xec.detector.channels import N_CHANNELS
from xec.display import colours
from xec.display.content import EventPicture
from xec.display.event_display import draw_event, figure_for
from xec.display.unfold import unfolded

PANELS = ("as measured", "reconstructed", "recovered")


def drawn(picture: EventPicture) -> Figure:
    figure = figure_for(picture)
    draw_event(figure, picture)
    return figure


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title(loc="left").startswith(PANELS)]


def collection(axes: Axes, gid: str) -> PolyCollection:
    (found,) = [child for child in axes.collections if child.get_gid() == gid]
    assert isinstance(found, PolyCollection)
    return found


def faces(axes: Axes) -> np.ndarray:
    """The colour of each channel, (4760, 4)."""
    return np.asarray(collection(axes, "sensors").get_facecolor())


def texts(figure: Figure) -> str:
    inside = [text.get_text() for axes in figure.axes for text in axes.texts]
    legends = [axes.get_legend() for axes in figure.axes]
    labels = [text.get_text() for legend in legends if legend for text in legend.get_texts()]
    return "\n".join([text.get_text() for text in figure.texts] + inside + labels)


def expected_colour(npho: np.ndarray, largest: float) -> np.ndarray:
    """Closed form: the logarithm between floor and largest count, in 256 steps of the map."""
    share = np.log(np.maximum(npho, colours.NPHO_FLOOR) / colours.NPHO_FLOOR)
    share /= np.log(largest / colours.NPHO_FLOOR)
    step = np.minimum((share * 256).astype(int), 255)
    return np.array([colours.npho_map()(int(k)) for k in step])


def test_every_channel_is_drawn_once_in_each_panel() -> None:
    three = panels(drawn(full_picture()))
    assert len(three) == 3
    for axes in three:
        paths = collection(axes, "sensors").get_paths()
        assert len(paths) == N_CHANNELS
        for channel in (0, 4091, 4092, 4330, 4480, 4600, 4700, 4742, 4759):
            corners = paths[channel].vertices[:-1]
            np.testing.assert_allclose(corners, unfolded().polygons[channel])
        assert len(axes.collections) < 12


def test_counts_have_the_colour_of_their_logarithm() -> None:
    (axes,) = panels(drawn(measured_picture()))
    one = event()
    live = np.flatnonzero(one.npho_valid)[::37]
    # Where a value sits on the edge of a colour step, float32 may fall on either side.
    np.testing.assert_allclose(
        faces(axes)[live], expected_colour(one.npho[live].astype(float), 1.0e4), atol=0.02
    )
    assert not np.allclose(faces(axes)[2000], faces(axes)[4000], atol=0.2)


def test_empty_and_negative_counts_have_the_colour_of_the_floor() -> None:
    (axes,) = panels(drawn(measured_picture()))
    floor = colours.npho_map()(0)
    assert event().npho[1] < 0 < event().npho[2] < colours.NPHO_FLOOR
    np.testing.assert_allclose(faces(axes)[[1, 2]], [floor, floor])


def test_dead_sensors_are_marked_and_only_they() -> None:
    for axes in (panels(drawn(measured_picture()))[0], panels(drawn(full_picture()))[0]):
        marked = (faces(axes) == np.array(to_rgba(colours.DEAD))).all(axis=1)
        np.testing.assert_array_equal(np.flatnonzero(marked), DEAD)


def test_what_a_dead_sensor_holds_does_not_matter() -> None:
    picture = measured_picture()
    changed = replace(picture.event, npho=picture.event.npho.copy())
    changed.npho[DEAD] = 1.0e6
    before, after = (panels(drawn(p))[0] for p in (picture, EventPicture(changed)))
    np.testing.assert_array_equal(faces(before), faces(after))


def test_sensors_of_the_reconstructions_own_dead_list_are_marked_too() -> None:
    more = np.append(DEAD, np.int32(2000))
    picture = EventPicture(event(), reconstruction(more))
    assert event().npho_valid[2000]
    np.testing.assert_allclose(faces(panels(drawn(picture))[0])[2000], to_rgba(colours.DEAD))


def test_recovered_sensors_are_filled_and_framed() -> None:
    axes = panels(drawn(full_picture()))[1]
    recovered = reconstruction().recovered
    filled = recovered.channel != REFUSED
    np.testing.assert_allclose(
        faces(axes)[recovered.channel[filled]],
        expected_colour(recovered.npho[filled].astype(float), 1.0e4),
        atol=0.02,
    )
    np.testing.assert_allclose(faces(axes)[REFUSED], to_rgba(colours.DEAD))
    frames = collection(axes, "frames").get_paths()
    middles = np.array([path.vertices[:-1].mean(axis=0) for path in frames])
    np.testing.assert_allclose(middles, unfolded().centres[recovered.channel[filled]], atol=1e-6)


def test_live_sensors_look_the_same_before_and_after() -> None:
    before, after, _ = panels(drawn(full_picture()))
    live = event().npho_valid
    np.testing.assert_array_equal(faces(before)[live], faces(after)[live])


def test_difference_is_blue_below_and_red_above_the_reference() -> None:
    axes = panels(drawn(full_picture()))[2]
    recovered = reconstruction().recovered
    low, equal, high = DEAD[0], DEAD[4], DEAD[8]
    assert recovered.npho[[0, 4, 8]].tolist() == [100, 500, 900]
    red, _, blue, _ = faces(axes)[low]
    assert blue > red + 0.3
    red, _, blue, _ = faces(axes)[high]
    assert red > blue + 0.3
    np.testing.assert_allclose(faces(axes)[equal][:3], 0.97, atol=0.02)
    others = np.setdiff1d(np.arange(N_CHANNELS), DEAD)
    np.testing.assert_array_equal(np.unique(faces(axes)[others], axis=0), [to_rgba(colours.LIVE)])


def test_without_reference_the_third_panel_shows_the_counts() -> None:
    figure = drawn(EventPicture(event(), reconstruction()))
    axes = panels(figure)[2]
    assert axes.get_title(loc="left") == "recovered sensors only"
    np.testing.assert_allclose(
        faces(axes)[DEAD[8]], expected_colour(np.array([900.0]), 1.0e4)[0], atol=0.02
    )
    assert "900 ±  30" in texts(figure)
    assert "reference" not in texts(figure)


def test_conversion_is_marked_with_its_sigma_and_the_truth() -> None:
    axes = panels(drawn(full_picture()))[1]
    places = {
        str(line.get_marker()): (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axes.lines
        if line.get_marker() in ("+", "o")
    }
    assert places == {"+": (-10.0, -30.0), "o": (-11.0, -31.0)}
    arms = [child for child in axes.collections if isinstance(child, LineCollection)]
    ends = sorted(np.round(arm.get_segments()[0], 4).tolist() for arm in arms)
    assert ends == [[[-11.0, -30.0], [-9.0, -30.0]], [[-10.0, -33.0], [-10.0, -27.0]]]


def test_text_says_what_is_shown() -> None:
    shown = texts(drawn(full_picture()))
    assert "Run 77, event 12 (synthetic)" in shown
    assert "E = 52.50 ± 5.25 MeV" in shown
    assert "v = −30.00 ± 3.00 cm" in shown
    assert "simulated:  E = 52.80 MeV   u = 11.00 cm" in shown
    assert "dead or invalid (9)" in shown
    assert "recovered (8)" in shown
    assert "not recovered (1)" in shown
    assert "model reconstruct 3 (sha256 abababababab), dead list list-5" in shown


def test_only_simulated_events_are_called_synthetic() -> None:
    assert "synthetic" not in texts(drawn(replace(full_picture(), synthetic=False)))


def test_comparison_with_the_reference_is_in_numbers() -> None:
    """Of 100, 200, ... 700 and 900 photons against 500."""
    error = np.array([-400, -300, -200, -100, 0, 100, 200, 400])
    assert reference()[0] == 500
    shown = texts(drawn(full_picture()))
    assert f"mean difference −{-error.mean():.1f} photons" in shown
    assert f"root mean square {np.sqrt((error**2).mean()):.1f} photons" in shown
    pull = error / np.sqrt(error + 500)
    assert f"in units of σ {np.sqrt((pull**2).mean()):.2f}" in shown


def test_an_event_without_dead_or_live_sensors_can_be_drawn() -> None:
    one = event()
    whole = replace(one, npho_valid=np.ones(N_CHANNELS, dtype=np.bool_))
    nothing = replace(one, npho_valid=np.zeros(N_CHANNELS, dtype=np.bool_))
    none = np.empty(0, dtype=np.int32)
    every = np.arange(N_CHANNELS, dtype=np.int32)
    for picture in (
        EventPicture(whole),
        EventPicture(nothing),
        EventPicture(whole, reconstruction(none), reference()),
        EventPicture(nothing, reconstruction(every), reference()),
    ):
        drawn(picture)


@pytest.mark.parametrize(("largest", "top"), [(0, 500), (1000, 1000), (1001, 2000), (2001, 5000)])
def test_scale_of_counts_ends_at_a_round_number(largest: float, top: float) -> None:
    norm = colours.npho_norm(np.array([largest]))
    assert (norm.vmin, norm.vmax) == (colours.NPHO_FLOOR, pytest.approx(top))


# Machado, Oliveira and Fernandes (2009), severity 1: what protanopes and deuteranopes see.
DICHROMATS = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


@pytest.mark.parametrize("kind", DICHROMATS)
def test_dead_sensors_stand_out_for_the_colour_blind(kind: str) -> None:
    """Further from every colour of the map than a fifth of the way from black to white."""
    seen = np.array(DICHROMATS[kind])
    counts = colours.npho_map()(np.arange(256))[:, :3] @ seen.T
    dead = np.array(to_rgba(colours.DEAD)[:3]) @ seen.T
    assert np.linalg.norm(counts - dead, axis=1).min() > 0.2 * np.sqrt(3)


def test_drawing_leaves_the_global_state_of_matplotlib_alone() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from support_display import full_picture\n"
        "from xec.display.event_display import draw_event, figure_for\n"
        "draw_event(figure_for(full_picture()), full_picture())\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
