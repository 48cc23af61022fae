"""The detector's stage: what it is told, and its losses in several processes."""

import pytest
import torch

from sdxl.model.scenes import render, world
from sdxl.quality.scenes import networks
from sdxl.training.stages import judge


@pytest.fixture(scope="module")
def scenes():
    """One, two, three and once more one solid."""
    wanted, found = [1, 2, 3, 1], []
    for number in range(100):
        scene = world.any_scene(0, number)
        if len(found) < 4 and len(scene.solids) == wanted[len(found)]:
            found.append(scene)
    return found


def test_every_solid_has_a_cell_with_what_it_is(scenes):
    there, cells, places = judge.targets(scenes)
    assert there.sum((1, 2)).tolist() == [1, 2, 3, 1]
    solids = [solid for scene in scenes for solid in scene.solids]
    assert len(cells) == len(places) == len(solids) == 7
    for (row, y, x, colour, shape, size, material), (across, down), solid in zip(
        cells.tolist(), places.tolist(), solids, strict=True
    ):
        assert there[row, y, x] == 1
        assert (world.COLOURS[colour], world.SHAPES[shape]) == (solid.colour, solid.shape)
        assert (world.SIZES[size], world.MATERIALS[material]) == (solid.size, solid.material)
        assert (across, down) == pytest.approx((solid.x, solid.y), abs=1e-6)


def test_the_mean_over_processes_is_the_loss_of_the_whole_batch(scenes, monkeypatch):
    torch.manual_seed(0)
    module = judge.Detecting().eval()
    pixels = networks.to_tensor(render.render(scenes, 64))

    def losses(share):
        there, cells, places = judge.targets(scenes[share])
        with torch.no_grad():
            return module(pixels[share], there, cells, places)

    whole = losses(slice(4))
    # Two processes, three solids and four: what `machine.part` says of them.
    monkeypatch.setattr(judge.machine, "part", lambda count, _: count * 2 / 7)
    halves = losses(slice(2)), losses(slice(2, 4))
    assert halves[0]["loss"] != halves[1]["loss"]
    for name, value in whole.items():
        assert float(halves[0][name] + halves[1][name]) / 2 == pytest.approx(float(value), rel=1e-4)
