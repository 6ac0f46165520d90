"""Mask Refining R-CNN's RoI heads against `mr_rcnn_reference`, on inputs where every decision of the wiring matters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.structures import Pyramid, RoIs, Targets
from tests.methods import mr_rcnn_reference as reference
from tests.methods import refining, tiny
from tests.methods.reference import Object, area, iou, softmax
from tests.methods.scene import JUNK, OBJECTS, VALID, Inputs, lopsided_masks

K, STRIDES, CANVAS, SIZES = tiny.CLASSES, (4, 8, 16, 32), 192, ((160, 192), (192, 140))
PROPOSALS, PADDED = 20, (5, 19)
SEED = 95  # found by trying until `test_these_inputs_tell_decisions_apart` passed
KEY = jax.random.key(1)


def make_inputs(seed: int) -> Inputs:
    rng = np.random.default_rng(seed)
    boxes, valid = np.array(OBJECTS) + rng.uniform(0, 1, (2, 4, 4)), np.array(VALID)
    proposals = make_proposals(rng, boxes, valid)
    boxes[0, 3] = proposals[0, 2]  # an object here would change everything
    real = np.tile(~np.isin(np.arange(PROPOSALS), PADDED), (2, 1))
    levels = (rng.normal(size=(2, CANVAS // s, CANVAS // s, 16)) for s in STRIDES)
    number = functools.partial(jnp.asarray, dtype=jnp.float32)
    return Inputs(
        Pyramid(tuple(map(number, levels)), number(SIZES), STRIDES),
        RoIs(number(proposals), jnp.asarray(real), jnp.asarray(real)),
        Targets(
            boxes=number(boxes),
            classes=jnp.array([[2, 0, 1, 0], [1, 2, 0, 0]], jnp.int32),
            valid=jnp.asarray(valid),
            masks=jnp.asarray(np.packbits(lopsided_masks(rng, (2, 4), 16), axis=-1)),
            # The second, which would cover everything, does not exist.
            crowd_boxes=number([[(0, 100, 90, 160)], [(0, 0, 200, 200)]]),
            crowd_valid=jnp.array([[True], [False]]),
        ),
    )


def make_proposals(rng, boxes, valid) -> np.ndarray:
    """Each corner up to a third of the side off an object's; the last ones anywhere."""
    made = np.zeros((2, PROPOSALS, 4))
    for image, slot in np.ndindex(2, PROPOSALS):
        box = rng.choice(boxes[image][valid[image]])
        made[image, slot] = box + rng.uniform(-0.32, 0.32, 4) * np.tile(box[2:] - box[:2], 2)
        if slot >= PROPOSALS - 6:
            corner = rng.uniform(0, 90, 2)
            made[image, slot] = [*corner, *(corner + rng.uniform(30, 60, 2))]
    made[0, -3] = (10, 64, 60, 126)  # less than half of it on the crowd region
    made = np.clip(made, 0, np.tile(np.flip(SIZES, 1), 2)[:, None])
    made[:, PADDED] = JUNK
    return made


def make_parameters(inputs: Inputs, seed: int):
    """He's initialisation, with predictors whose classes differ a lot."""
    rng = np.random.default_rng(seed)
    gains = {"classes": 8.0, "deltas": 9.0, "predictor": 25.0}

    def draw(path, leaf):
        fan_in = np.prod(leaf.shape[:-1], initial=1)
        scale = gains.get(path[-2].key, 1.0) * np.sqrt(2 / max(fan_in, 100))
        return jnp.asarray(rng.normal(0, scale, leaf.shape), leaf.dtype)

    made = jax.tree_util.tree_map_with_path(draw, refining.shapes(inputs)["params"])
    classes = made["box_head"]["classes"]
    classes["bias"] = classes["bias"].at[K].add(2.0)  # background is often the likeliest
    return made


def plain_images(inputs: Inputs) -> list[reference.Image]:
    """The inputs as the reference takes them, without padding."""
    images = []
    for b, size in enumerate(SIZES):
        levels = [np.asarray(x[b], float) for x in inputs.pyramid.levels]
        targets, proposals = jax.tree.map(
            lambda x, b=b: np.asarray(x[b]), (inputs.targets, inputs.proposals)
        )
        boxes, masks = targets.boxes.astype(float), np.unpackbits(targets.masks, axis=-1)
        things = {
            int(n): Object(boxes[n], int(targets.classes[n]), masks[n].astype(float))
            for n in np.flatnonzero(targets.valid)
        }
        rois = {int(s): proposals.boxes[s].astype(float) for s in np.flatnonzero(proposals.valid)}
        crowds = list(targets.crowd_boxes[targets.crowd_valid].astype(float))
        images.append(reference.Image(levels, STRIDES, size, rois, things, crowds))
    return images


def sampled_boxes(inputs: Inputs) -> list[dict[int, np.ndarray]]:
    """The RoIs that the task draws, by slot."""
    select = refining.quick(functools.partial(refining.heads().task.select, num_classes=K))
    chosen = select(KEY, inputs.proposals, inputs.targets)
    candidates = np.concatenate([inputs.proposals.boxes, inputs.targets.boxes], 1).astype(float)
    index, valid = np.asarray(chosen.index), np.asarray(chosen.rois.valid)
    return [
        {int(s): candidates[b, index[b, s]] for s in np.flatnonzero(valid[b])} for b in range(2)
    ]


def reference_settings(**changes) -> reference.Settings:
    module = refining.heads()
    known = {f.name for f in dataclasses.fields(reference.Settings)}
    test = {k: v for k, v in dataclasses.asdict(module.test).items() if k in known}
    return reference.Settings(
        **{"num_classes": K, "max_positives": module.task.max_positives, **test, **changes}
    )


class Expected:
    """What the reference gives for some inputs and parameters."""

    def __init__(self, inputs, parameters):
        self.parameters = jax.tree.map(lambda x: np.asarray(x, float), parameters)
        self.images, self.sampled = plain_images(inputs), sampled_boxes(inputs)

    def losses(self, **changes) -> reference.Lesson:
        settings = reference_settings(**changes)
        return reference.losses(self.parameters, self.images, self.sampled, settings)

    def detections(self, **changes) -> list[list[reference.Detection]]:
        settings = reference_settings(**changes)
        return [reference.detect(self.parameters, image, settings) for image in self.images]


@pytest.fixture(scope="module")
def inputs():
    return make_inputs(SEED)


@pytest.fixture(scope="module")
def parameters(inputs):
    return make_parameters(inputs, SEED)


@pytest.fixture(scope="module")
def expected(inputs, parameters):
    return Expected(inputs, parameters)


def decisions(images, lesson: reference.Lesson) -> dict[str, bool]:
    """Which decisions of training these RoIs tell apart from likely mistakes."""
    looks, on_R, on_B = lesson.looks, lesson.on_R, lesson.on_B
    background = [key for key in looks if on_R[key].object is None]
    foreground = [key for key in looks if on_R[key].object is not None]
    refined = [[s for b, s in looks if b == i and on_B[b, s].object is not None] for i in (0, 1)]
    best = [max(iou(v.B, o.box) for o in images[k[0]].objects.values()) for k, v in looks.items()]
    edges = [{0.0, *map(float, image.size)} for image in images]
    return {
        "background is likeliest, and another class than the last guides": any(
            looks[k].Sb.argmax() == K and looks[k].c < K - 1 for k in background
        ),
        "the object's class is not the likeliest": any(
            looks[k].Sb[:K].argmax() != looks[k].c for k in foreground
        ),
        "slots are empty": len(looks) < 2 * 16,
        "B leaves the image": sum(bool(edges[k[0]] & set(v.B)) for k, v in looks.items()) > 2,
        "B is of two levels": 0 < sum(area(v.B) > 112**2 for v in looks.values()) < len(looks),
        "background becomes foreground": any(on_B[k].object is not None for k in background),
        "foreground becomes background": any(on_B[k].label == K for k in foreground),
        "and another object's": any(
            on_B[k].object is not None and on_B[k].label != on_R[k].label for k in foreground
        ),
        "B lies on the crowd region": any(not on_B[k].counted for k in background),
        "one image has more foreground than is refined": max(map(len, refined)) > 4,
        "the other less": 0 < min(map(len, refined)) < 4,
        "not in the first slots": any(
            slots[:4] != list(range(len(slots)))[:4] for slots in refined
        ),
        "IoU between 0.5 and 0.7": any(0.5 < x < 0.7 for x in best),
        "IoU above 0.7": sum(x > 0.7 for x in best) > 1,
    }


def test_these_inputs_tell_decisions_apart(expected):
    missing = [
        name for name, there in decisions(expected.images, expected.losses()).items() if not there
    ]
    assert not missing

    found = expected.detections(refine_topk=7, score_alpha=0.5)
    by_box_head = [softmax(d.look.Sb)[d.label] for d in found[0]]
    assert by_box_head != sorted(by_box_head, reverse=True), "fusing reorders"
    everything = [d for image in found for d in image]
    assert any(d.label != d.look.c for d in everything), "another class than the one that guided"
    assert any(len({id(d.look) for d in image}) < len(image) for image in found), "two of a RoI"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"iou": 0.7, "cls": False, "info_flow": "Br", "flow_relu": False},
        pytest.param({"relabel": False, "pseudo_labels": False}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_losses(inputs, parameters, expected, changes):
    """Every loss by name, and F^- of every refined mask."""
    module = refining.heads(**changes)

    @refining.quick
    def run(parameters, pyramid, proposals, targets):
        (terms, masks), seen = module.apply(
            {"params": parameters},
            *(pyramid, proposals, targets, KEY),
            train=True,
            method="losses",
            capture_intermediates=lambda part, _: part.name == "flow",
        )
        found = {name: loss for term in (*terms, *masks) for name, loss in term.losses.items()}
        return found, seen["intermediates"]["flow"]["__call__"][0]

    found, flows = run(parameters, inputs.pyramid, inputs.proposals, inputs.targets)
    wanted = expected.losses(**changes)
    for image in range(2):
        slots = sorted(slot for b, slot in wanted.flows if b == image)
        for place, slot in enumerate(slots):
            close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
            close(flows[image, place], wanted.flows[image, slot])
    found = {name: float(value) for name, value in found.items()}
    assert found == pytest.approx(wanted.losses, rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"refine_topk": 7, "score_alpha": 0.5},
        {"reg": False, "info_flow": "Br", "flow_relu": False},
    ],
    ids=str,
)
def test_detect(inputs, parameters, expected, changes):
    module = refining.heads(**changes)

    @refining.quick
    def run(parameters, pyramid, proposals):
        return module.apply({"params": parameters}, pyramid, proposals, method="detect")

    found = jax.device_get(run(parameters, inputs.pyramid, inputs.proposals))
    for image, wanted in enumerate(expected.detections(**changes)):
        assert found.valid[image].tolist() == [i < len(wanted) for i in range(found.valid.shape[1])]
        for i, detection in enumerate(wanted):
            assert found.classes[image, i] == detection.label
            assert found.scores[image, i] == pytest.approx(detection.score, abs=1e-5)
            np.testing.assert_allclose(found.boxes[image, i], detection.box, atol=1e-3)
            np.testing.assert_allclose(found.masks[image, i], detection.mask, atol=1e-4)
