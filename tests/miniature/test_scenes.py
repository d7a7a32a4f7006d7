"""The miniature world: deterministic scenes with exact masks."""

from __future__ import annotations

import numpy as np
import pytest

from engine.miniature.scenes import MAXIMUM_AREA, MINIMUM_AREA, draw_scene
from engine.miniature.things import CONCEPTS


def test_a_scene_depends_on_seed_and_index_alone():
    first, again = draw_scene(7, 3), draw_scene(7, 3)
    assert np.array_equal(first.image, again.image) and first.caption == again.caption
    assert not np.array_equal(first.image, draw_scene(7, 4).image)
    assert not np.array_equal(first.image, draw_scene(8, 3).image)


@pytest.mark.parametrize("concept", list(CONCEPTS))
def test_scenes_of_a_concept_show_it_with_its_mask_and_say_so(concept):
    for index in range(12):
        scene = draw_scene(2, index, concept=concept)
        assert scene.metadata["concept"] == concept
        assert concept in scene.caption.split()
        assert scene.masks[concept].mean() >= MINIMUM_AREA * 0.7


def test_the_mask_is_where_the_thing_is():
    """Painting a thing changes the picture inside its mask and, apart from its shadow, nowhere else."""
    from engine.miniature import scenes
    from engine.miniature.things import draw_car

    rng = np.random.default_rng(0)
    before = np.full((96, 128, 3), 0.4, np.float32)
    image, coverage = before.copy(), {}
    thing = draw_car(np.random.default_rng(1))
    scenes._draw_thing(rng, image, thing, coverage, (0.5, 0.4), 1.0)
    changed = np.abs(image - before).max(-1)
    mask = coverage["car"] >= 0.5
    assert (changed[mask] > 0.01).mean() > 0.95
    brightened = (image - before).max(-1) > 0.01  # a shadow only darkens
    assert not brightened[coverage["car"] == 0].any()


def test_the_world_has_empty_scenes_pairs_parts_and_all_sizes():
    scenes = [draw_scene(11, index) for index in range(250)]
    kinds = {kind: sum(s.metadata["kind"] == kind for s in scenes) for kind in ("empty", "single", "pair", "part")}
    assert all(count >= 10 for count in kinds.values()), kinds
    for scene in scenes:
        if scene.metadata["kind"] == "empty":
            assert not scene.masks and not set(CONCEPTS) & set(scene.caption.split())
        if scene.metadata["kind"] == "pair":
            first, second = (thing["concept"] for thing in scene.metadata["things"])
            assert not (scene.masks[first] & scene.masks[second]).any()
    areas = [s.masks[s.metadata["concept"]].mean() for s in scenes if s.metadata["concept"]]
    assert min(areas) < 1.5 * MINIMUM_AREA and 0.3 < max(areas) <= MAXIMUM_AREA
    assert any("hat" in s.masks for s in scenes) and any("roof box" in s.masks for s in scenes)
    assert any(s.caption == "a photo of a background" for s in scenes)


def test_a_part_lies_inside_its_thing():
    scene = next(s for i in range(200) if "hat" in (s := draw_scene(4, i, concept="human")).masks)
    assert scene.masks["hat"].any() and not (scene.masks["hat"] & ~scene.masks["human"]).any()


@pytest.mark.parametrize(("width", "height"), [(96, 160), (200, 75)])
def test_scenes_of_any_size_keep_image_and_mask_together(width, height):
    scene = draw_scene(1, 1, width=width, height=height, concept="dog")
    assert scene.image.shape == (height, width, 3) and scene.masks["dog"].shape == (height, width)


def test_an_unknown_concept_or_a_tiny_image_is_refused():
    with pytest.raises(ValueError, match="no 'zebra'; it has bird, car"):
        draw_scene(0, 0, concept="zebra")
    with pytest.raises(ValueError, match="too small"):
        draw_scene(0, 0, width=8)


def test_two_objects_are_of_different_concepts_each_with_a_mask_of_its_own():
    for index in range(12):
        scene = draw_scene(7, index, objects=2)
        names = [name for name in scene.masks if name in CONCEPTS]
        assert len(names) == 2 and scene.metadata["concept"] in names
        first, second = (scene.masks[name] for name in names)
        assert min(first.mean(), second.mean()) > 0.02
        assert not (first & second).any(), "a pixel shows one of them"
    assert {draw_scene(7, index, objects=1).metadata["kind"] for index in range(12)} <= {"single", "part"}


def test_other_numbers_of_objects_are_refused():
    with pytest.raises(ValueError, match="3 objects were asked for; a scene has 1 or 2"):
        draw_scene(7, 0, objects=3)
