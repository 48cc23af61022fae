"""Scenes: drawn from seeds, kept apart for evaluation, rendered and described truly."""

import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from sdxl.model.scenes import captions, render, world
from sdxl.quality.scenes import judge
from sdxl.quality.scenes.encoder import Found


def solid(**changes):
    plain = world.Solid("red", "sphere", "large", "matte", 0.0, 0.0, 0.0)
    return replace(plain, **changes)


def test_a_scene_is_a_function_of_seed_and_number():
    assert world.training_scene(0, 5) == world.training_scene(0, 5)
    assert world.training_scene(0, 5) != world.training_scene(1, 5)
    assert world.training_scene(0, 5) != world.training_scene(0, 6)


def test_no_training_scene_has_a_held_out_combination_and_every_evaluation_scene_has():
    training = [world.training_scene(0, n) for n in range(400)]
    assert not any(scene.held_out for scene in training)
    evaluation = [world.held_out_scene(0, n) for n in range(90)]
    assert all(scene.held_out for scene in evaluation)
    assert [len(scene.solids) for scene in evaluation] == [1, 2, 3] * 30
    assert any(world.any_scene(0, n).held_out for n in range(20)), "the judge sees them all"
    # Each colour and each shape alone is learnt.
    seen = {s.colour for scene in training for s in scene.solids}
    assert seen == set(world.COLOURS)


def test_solids_stand_apart_and_relations_hold():
    for number in range(300):
        scene = world.training_scene(3, number)
        for one, other in combinations(scene.solids, 2):
            apart = np.hypot(one.x - other.x, one.y - other.y)
            assert apart > world.RADII[one.size] + world.RADII[other.size]
            assert one.kind != other.kind
        if scene.relation:
            first, second = scene.solids[:2]
            assert world.holds(scene.relation, (first.x, first.y), (second.x, second.y))
        else:
            assert len(scene.solids) == 1


def test_captions_say_what_they_ask():
    texts = set()
    for number in range(200):
        scene = world.training_scene(0, number)
        caption = captions.describe(scene, random.Random(number))
        texts.add(caption.text)
        for asked, real in zip(caption.asked, scene.solids, strict=True):
            assert (asked.colour, asked.shape) == real.kind
            assert f"{asked.colour} " in caption.text and asked.shape in caption.text
            assert asked.size in (None, real.size) and asked.material in (None, real.material)
    assert len(texts) > 180, "the wording varies"


def test_pictures_do_not_depend_on_their_batch_nor_on_threads():
    scenes = [world.training_scene(0, n) for n in range(6)]
    together = render.render(scenes)
    assert together.shape == (6, 64, 64, 3) and together.dtype == np.uint8
    assert (render.render(scenes[3:4])[0] == together[3]).all()
    assert (render.render(scenes, threads=2) == together).all()


def test_every_solid_is_seen_nearly_whole():
    for number in range(60):
        scene = world.held_out_scene(0, number)
        discs = [world.disc(one.x, one.y, one.size) for one in scene.solids]
        for across, down, radius in discs:
            assert 0.9 * radius < min(across, down) and max(across, down) < 1 - 0.9 * radius
        alone = [render.picture(world.Scene((one,))) for one in scene.solids]
        empty = render.picture(world.Scene(()))
        together = render.picture(scene)
        for one, (across, down, radius) in zip(alone, discs, strict=True):
            y, x = np.mgrid[:64, :64] / 64
            its = ((x - across) ** 2 + (y - down) ** 2 < radius**2) & (one != empty).any(axis=2)
            kept = (np.abs(together.astype(int) - one)[its] < 40).all(axis=1).mean()
            assert kept > 0.8, (number, kept)


@pytest.mark.parametrize("shape", world.SHAPES)
@pytest.mark.parametrize("colour", ["red", "green", "blue"])
def test_a_solid_is_seen_in_its_colour_where_it_stands(shape, colour):
    thing = solid(shape=shape, colour=colour, x=0.7, y=-0.3)
    picture = render.picture(world.Scene((thing,)))
    across, down, _ = world.disc(thing.x, thing.y, thing.size)
    there = picture[int(down * 64), int(across * 64)].astype(int)
    channel = ["red", "green", "blue"].index(colour)
    assert there[channel] > max(np.delete(there, channel)) + 30
    empty = render.picture(world.Scene(()))
    changed = (picture != empty).any(axis=2)
    assert 0.02 < changed.mean() < 0.5, "a solid and its shadow, not the whole picture"


def test_only_touched_pixels_are_traced_and_nothing_is_missed(monkeypatch):
    scenes = [world.training_scene(1, n) for n in range(5)]
    quick = render.render(scenes)
    everything = np.arange(64 * 64)
    monkeypatch.setattr(render, "_touched", lambda scene, view: everything)
    whole = render.render(scenes)
    assert np.abs(quick.astype(int) - whole).max() <= 1


def test_a_shadow_falls_away_from_the_lamp():
    thing = solid(shape="cylinder")
    picture = render.picture(world.Scene((thing,))).astype(int).sum(axis=2)
    empty = render.picture(world.Scene(())).astype(int).sum(axis=2)
    darker = np.argwhere(picture - empty < -60)
    assert darker[:, 1].mean() > 32, "the lamp is on the left"


def found(thing, **changes):
    values = {name: getattr(thing, name) for name in ("colour", "shape", "size", "material")}
    return Found(**{**values, "x": thing.x, "y": thing.y, **changes})


def test_the_judge_accepts_what_was_asked_and_nothing_less():
    drawn = (world.training_scene(0, n) for n in range(99))
    scene = next(scene for scene in drawn if len(scene.solids) == 2)
    caption = captions.describe(scene, random.Random(0))
    right = [found(s) for s in scene.solids]
    assert judge.agreement(caption, right)["attribute"]
    assert judge.agreement(caption, right[::-1])["attribute"], "the order does not matter"
    one, other = scene.solids
    wrong = {
        "too few": right[:1],
        "too many": [*right, found(solid(colour="cyan"))],
        "colour": [found(one, colour="none"), right[1]],
        "shape": [found(one, shape="none"), right[1]],
        "relation": [found(one, x=other.x, y=other.y), found(other, x=one.x, y=one.y)],
    }
    for name, solids in wrong.items():
        assert not judge.agreement(caption, solids)["attribute"], name
    shares = judge.accuracy([caption, caption], [right, right[:1]])
    assert shares["attribute_accuracy"] == shares["attribute_2_accuracy"] == 0.5
    assert "attribute_1_accuracy" not in shares
