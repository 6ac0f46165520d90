"""The criterion of ranking losses: what it selects, how it groups, weighs and balances."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from jaxseg.losses import box as box_losses
from jaxseg.losses.rank_sort import rank_sort as rank_sort_loss
from jaxseg.modeling import rank_sort
from jaxseg.modeling.criterion import MaskTerms, Terms
from jaxseg.ops import boxes as boxes_lib
from jaxseg.structures import RoIs, Targets

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)
ranking_of = quick(functools.partial(rank_sort_loss, form="dense"))


def criterion(**changes):
    model = common.base().model
    model.criterion.rpn.coder = (10.0, 10.0, 5.0, 5.0)
    model.criterion.rank_sort.update(changes)
    return rank_sort.rank_sort(model)


def scene(images=4, anchors=40, seed=0):
    """(anchors, targets): two objects an image, each with anchors close to it."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 40, (images, 2, 2))
    objects = np.concatenate([low, low + rng.uniform(15, 25, low.shape)], -1)
    near = np.repeat(objects, 4, 1) + rng.normal(0, 0.8, (images, 8, 4))
    low = rng.uniform(0, 60, (images, anchors - 8, 2))
    far = np.concatenate([low, low + rng.uniform(3, 9, low.shape)], -1)
    targets = Targets(
        boxes=objects.astype(np.float32),
        classes=rng.integers(0, 3, (images, 2)).astype(np.int32),
        valid=np.ones((images, 2), bool),
        masks=np.zeros((images, 2, 8, 1), np.uint8),
        crowd_boxes=np.zeros((images, 1, 4), np.float32),
        crowd_valid=np.zeros((images, 1), bool),
    )
    boxes = np.concatenate([near, far], 1).astype(np.float32)
    return jnp.asarray(boxes), jax.tree.map(jnp.asarray, targets)


def predictions(shape, seed=1):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(size=shape), jnp.float32),
        jnp.asarray(rng.normal(0, 0.3, (*shape[:2], 4)), jnp.float32),
    )


@functools.cache
def compiled(task, group):
    """(boxes, targets, logits, deltas, valid) -> (terms, selection), one compilation a shape for all tests."""
    return quick(
        functools.partial({"rpn": rpn_terms, "roi": roi_terms}[task], criterion(group=group))
    )


def run(task, group, boxes, *rest, valid=None):
    valid = jnp.ones(boxes.shape[:2], bool) if valid is None else valid
    return compiled(task, group)(boxes, *rest, valid)


def rpn_terms(made, boxes, targets, logits, deltas, valid=None):
    valid = jnp.ones(boxes.shape[:2], bool) if valid is None else valid
    selection = made.rpn.select(KEY, boxes, valid, targets)
    return made.rpn.loss(logits, deltas, selection), selection


def test_every_anchor_takes_part_but_those_between_the_thresholds():
    boxes = jnp.array([[[0, 0, 10, 10], [0, 0, 10, 6], [40, 40, 50, 50], [1, 0, 10, 10]]])
    targets = Targets(
        boxes=jnp.array([[[0.0, 0.0, 10.0, 10.0]]]),
        classes=jnp.array([[2]]),
        valid=jnp.ones((1, 1), bool),
        masks=jnp.zeros((1, 1, 8, 1), jnp.uint8),
        crowd_boxes=jnp.zeros((1, 1, 4)),
        crowd_valid=jnp.zeros((1, 1), bool),
    )
    valid = jnp.ones((1, 4), bool)
    select = quick(functools.partial(criterion().rpn.select, KEY))
    chosen = select(boxes.astype(jnp.float32), valid, targets)
    assert chosen.index.tolist() == [[0, 1, 2, 3]]
    assert chosen.classes.tolist() == [[2, -1, 1, 2]]
    assert chosen.rois.stats.tolist() == [[True, False, True, True]]


def test_the_rpn_by_hand():
    """Against the losses themselves, image by image; the box loss is balanced, and its value that of the ranking."""
    made = criterion(group=1, delta=0.2, balance_masks=False)
    ranking_of = quick(functools.partial(rank_sort_loss, form="dense", delta=0.2))
    boxes, targets = scene(images=2)
    logits, deltas = predictions(boxes.shape[:2])
    terms, chosen = quick(functools.partial(rpn_terms, made))(boxes, targets, logits, deltas)
    assert type(terms.balance) is rank_sort.Group
    ranking, sorting, giou = [], [], []
    for b in range(2):
        own = np.asarray(chosen.positive[b])
        decoded = boxes_lib.decode(deltas[b], boxes[b], made.rpn.coder)
        iou = np.diag(boxes_lib.iou(decoded, chosen.gt_boxes[b]))
        r, s = ranking_of(logits[b], iou, chosen.positive[b], chosen.rois.stats[b])
        ranking.append(r), sorting.append(s)
        weight = 1 / (1 + np.exp(-np.asarray(logits[b])))[own]
        loss = np.asarray(box_losses.giou(decoded, chosen.gt_boxes[b]))[own]
        giou.append((weight * loss).sum() / weight.sum())
        assert 4 <= own.sum() < 12
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    close(terms.losses["rpn_objectness"], np.mean(ranking) + np.mean(sorting))
    close(terms.losses["rpn_box"], terms.losses["rpn_objectness"])
    close(terms.log["rpn_giou"], np.mean(giou))
    close(terms.log["rpn_ranking"], np.mean(ranking))
    close(terms.log["rpn_sorting"], np.mean(sorting))


def test_the_gradient_of_a_balanced_loss_is_lambda_times_its_own():
    made = criterion(group=2)
    boxes, targets = scene(images=2)
    logits, deltas = predictions(boxes.shape[:2])

    def values(logits, deltas):
        terms, _ = rpn_terms(made, boxes, targets, logits, deltas)
        found = terms.losses | terms.log
        return {name: found[name] for name in ("rpn_box", "rpn_objectness", "rpn_giou")}

    @quick
    def run(logits, deltas):
        found, pull = jax.vjp(values, logits, deltas)
        ones = {n: {m: jnp.float32(m == n) for m in found} for n in found}
        return found, {name: pull(one) for name, one in ones.items()}

    found, gradients = run(logits, deltas)
    of_scores, of_boxes = gradients["rpn_box"]
    assert np.abs(of_scores).max() == 0  # neither the weights nor lambda have one
    expected = found["rpn_objectness"] / found["rpn_giou"] * gradients["rpn_giou"][1]
    np.testing.assert_allclose(of_boxes, expected, rtol=1e-4, atol=1e-7)
    of_scores, of_boxes = gradients["rpn_objectness"]
    assert np.abs(of_boxes).max() == 0 and abs(of_scores.sum()) < 1e-6


def test_scores_that_weigh_boxes_and_masks_of_rois_have_no_gradient():
    made = criterion(group=2)
    boxes, targets = scene(images=2)
    logits, deltas = predictions((*boxes.shape[:2], 3))

    def weighed(logits):
        terms, _ = roi_terms(made, boxes, targets, logits, deltas)
        values = jnp.arange(boxes.shape[1], dtype=jnp.float32) + jnp.zeros(boxes.shape[:2])
        masks = terms.balance.balanced(terms.balance.mean(values, terms.mask_weights))
        return masks.sum() + terms.losses["box"] + terms.log["giou"], terms.mask_weights.sum()

    gradient, weights = quick(jax.grad(weighed, has_aux=True))(logits)
    assert weights > 1 and np.abs(gradient).max() == 0


def test_each_roi_learns_the_box_of_its_class():
    made = criterion(group=1)
    boxes, targets = scene(images=1)
    logits, _ = predictions((*boxes.shape[:2], 3))
    deltas = jnp.asarray(np.random.default_rng(4).normal(0, 0.3, (1, 40, 3, 4)), jnp.float32)

    def giou(deltas):
        valid = jnp.ones(boxes.shape[:2], bool)
        selection = made.roi.relabel(RoIs(boxes, valid, valid), targets, 3)
        return made.roi.loss(logits, deltas, selection).log["giou"], selection

    gradient, chosen = quick(jax.grad(giou, has_aux=True))(deltas)
    moved = np.abs(gradient[0]).sum(-1) > 0
    own = np.asarray(chosen.classes[0])[:, None] == np.arange(3)
    np.testing.assert_array_equal(moved, own & np.asarray(chosen.positive[0])[:, None])
    assert moved.any(0).sum() > 1


def test_anchors_between_the_thresholds_are_no_negatives():
    boxes, targets = scene(images=1)
    beside = targets.boxes[0] + jnp.array([5.0, 0.0, 5.0, 0.0])  # IoU 0.5 to 0.67
    boxes = boxes.at[0, 10:12].set(beside)
    logits, deltas = predictions(boxes.shape[:2])
    terms, chosen = run("rpn", 1, boxes, targets, logits, deltas)
    ignored = ~chosen.rois.stats
    assert ignored[0, 10:12].all()
    other, _ = run("rpn", 1, boxes, targets, jnp.where(ignored, 50.0, logits), deltas)
    assert other.losses == terms.losses
    high = jnp.where(chosen.classes == 1, 50.0, logits)
    other, _ = run("rpn", 1, boxes, targets, high, deltas)
    assert other.losses["rpn_objectness"] > terms.losses["rpn_objectness"] + 0.1


@pytest.mark.parametrize("task", ["rpn", "roi"])
def test_settings_reach_both_tasks(task):
    model = common.base().model
    model.two_sided_clamp = True
    model.criterion.rank_sort.update(group=3, delta=0.2, max_positives=7, balance_masks=False)
    model.criterion.rpn.coder = model.criterion.roi.coder = (2.0, 3.0, 4.0, 5.0)
    made = getattr(rank_sort.rank_sort(model), task)
    found = made.group, made.delta, made.max_positives, made.balance_masks, made.clip_lower
    assert found == (3, 0.2, 7, False, True) and made.coder == (2.0, 3.0, 4.0, 5.0)


def test_the_clamp_of_boxes_is_used():
    boxes, targets = scene(images=2)
    _, deltas = predictions(boxes.shape[:2])
    task, valid = criterion().rpn, jnp.ones(boxes.shape[:2], bool)
    chosen = quick(functools.partial(task.select, KEY))(boxes, valid, targets)
    other = dataclasses.replace(task, clip_lower=True)
    narrow = deltas.at[..., 2:].set(-60.0), chosen
    (_, below), (_, bounded) = (quick(made.boxes)(*narrow) for made in (task, other))
    assert np.abs(below - bounded)[chosen.positive].min() > 1e-4


def test_a_group_is_a_ranking_and_groups_are_averaged():
    """Four images in groups of two are the mean of two batches; one group of four is something else."""
    boxes, targets = scene()
    logits, deltas = predictions(boxes.shape[:2])

    def losses(group, part):
        given = jax.tree.map(lambda x: x[part], (boxes, targets, logits, deltas))
        terms, _ = run("rpn", group, *given)
        return np.array([*terms.losses.values()])

    whole, halves = losses(2, slice(0, 4)), [losses(2, slice(i, i + 2)) for i in (0, 2)]
    np.testing.assert_allclose(whole, np.mean(halves, 0), rtol=1e-5)
    assert np.abs(whole - losses(4, slice(0, 4))).max() > 1e-3


def roi_terms(made, boxes, targets, logits, deltas, valid=None):
    """The loss on candidates in their order, with predictions of one group of boxes."""
    valid = jnp.ones(boxes.shape[:2], bool) if valid is None else valid
    selection = made.roi.relabel(RoIs(boxes, valid, valid), targets, 3)
    return made.roi.loss(logits, deltas[:, :, None], selection), selection


def test_a_group_must_divide_the_batch():
    boxes, targets = scene(images=3)
    logits, deltas = predictions(boxes.shape[:2])
    with pytest.raises(ValueError, match=r"rank_sort.group=2 .* divide the 3 of a step"):
        jax.eval_shape(functools.partial(rpn_terms, criterion()), boxes, targets, logits, deltas)


def test_images_that_fill_up_the_batch_change_nothing():
    boxes, targets = scene()
    logits, deltas = predictions(boxes.shape[:2])
    two = jax.tree.map(lambda x: x[:2], (boxes, targets, logits, deltas))
    valid = jnp.ones(boxes.shape[:2], bool).at[2:].set(False)
    junk = deltas.at[2:].set(1e3), logits.at[2:].set(50.0)
    targets = targets.replace(valid=targets.valid.at[2:].set(False))
    full, _ = run("rpn", 2, boxes, targets, junk[1], junk[0], valid=valid)
    alone, _ = run("rpn", 2, *two, valid=valid[:2])
    for name, loss in alone.losses.items():
        np.testing.assert_allclose(full.losses[name], loss, rtol=1e-5)
    for name, number in alone.log.items():
        np.testing.assert_allclose(full.log[name], number, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("task", [pytest.param("rpn", marks=pytest.mark.slow), "roi"])
def test_without_objects_everything_is_one_and_teaches_nothing(task):
    made = criterion()
    boxes, targets = scene(images=2)
    targets = targets.replace(valid=jnp.zeros_like(targets.valid))
    shape = boxes.shape[:2]
    logits, deltas = predictions(shape if task == "rpn" else (*shape, 3))
    terms_of_task = {"rpn": rpn_terms, "roi": roi_terms}[task]

    def total(logits, deltas):
        terms, _ = terms_of_task(made, boxes, targets, logits, deltas)
        masks = MaskTerms(
            {"mask": terms.balance.mean(deltas[..., 0] ** 2, terms.mask_weights)}, terms.balance
        )
        return made.total([terms], [masks], jnp.int32(0))

    (value, log), gradients = quick(jax.value_and_grad(total, (0, 1), has_aux=True))(logits, deltas)
    names = ("classification", "box") if task == "roi" else ("rpn_objectness", "rpn_box")
    assert [log[name] for name in names] == [2, 1] and log[
        "mask"
    ] == 0  # ranking and sorting: 1 each
    assert value == pytest.approx(sum(made.weights[n] * log[n] for n in names))
    assert all((g == 0).all() for g in gradients)


def test_all_proposals_and_objects_are_selected_positives_first_in_random_order():
    made = criterion(max_positives=3)
    boxes, targets = scene(images=2)
    valid = jnp.ones(boxes.shape[:2], bool).at[:, -5:].set(False)
    proposals = RoIs(boxes, valid, valid)
    seen = set()
    select = quick(lambda key: made.roi.select(key, proposals, targets, 3))
    for seed in range(3):
        chosen = select(jax.random.key(seed))
        positive = np.asarray(chosen.positive)
        count = positive.sum(1)
        assert made.roi.max_positives == 3 and (count >= 8 + 2 - 2).all()
        for b in range(2):
            assert positive[b, : count[b]].all() and not positive[b, count[b] :].any()
            assert sorted(chosen.index[b].tolist()) == list(range(boxes.shape[1] + 2))
            rest = np.asarray(chosen.index[b])[count[b] :]
            assert (np.diff(rest) > 0).all()
            counted = np.asarray(chosen.rois.stats[b])
            assert not counted[np.isin(chosen.index[b], range(35, 40))].any()
        every = jnp.concatenate([boxes, targets.boxes], 1)
        picked = jnp.take_along_axis(every, chosen.index[..., None], 1)
        np.testing.assert_array_equal(picked, chosen.rois.boxes)
        seen.add(tuple(chosen.index[0, :3].tolist()))
    assert len(seen) > 1


def test_the_box_head_ranks_pairs_of_rois_and_classes():
    """One positive a positive RoI, its class; everything else of counted RoIs is a negative."""
    made = criterion(group=1)
    boxes, targets = scene(images=1)
    logits, deltas = predictions((*boxes.shape[:2], 3))
    terms, chosen = run("roi", 1, boxes, targets, logits, deltas)
    assert type(terms.balance) is rank_sort.Ranking
    own = np.asarray(chosen.positive[0])
    positive = np.zeros((40, 3), bool)
    positive[own, np.asarray(chosen.classes[0])[own]] = True
    decoded = boxes_lib.decode(deltas[0], boxes[0], made.roi.coder)
    iou = np.diag(boxes_lib.iou(decoded, chosen.gt_boxes[0]))
    counted = np.asarray(chosen.rois.stats[0])
    flat = [np.broadcast_to(x[:, None], (40, 3)).reshape(-1) for x in (iou, counted)]
    ranking, sorting = ranking_of(logits[0].reshape(-1), flat[0], positive.reshape(-1), flat[1])
    np.testing.assert_allclose(terms.losses["classification"], ranking + sorting, rtol=1e-5)
    best = (1 / (1 + np.exp(-np.asarray(logits[0])))).max(1)
    np.testing.assert_allclose(terms.mask_weights[0], np.where(own, best, 0), rtol=1e-6)
    assert made.roi.num_logits(3) == 3
    np.testing.assert_allclose(
        made.roi.scores(logits), 1 / (1 + np.exp(-np.asarray(logits))), rtol=1e-5
    )


def terms_of(loss, exists=(True, True), positive=(True, True), kind=rank_sort.Ranking):
    flags = jnp.array(exists), jnp.array(positive)
    made = kind(*flags, jnp.array(loss)) if kind is rank_sort.Ranking else kind(*flags)
    return Terms({}, jnp.ones((2, 1)), {}, made)


def test_all_losses_of_a_mask_head_together_weigh_as_much_as_its_ranking():
    """Eq. 5 in each group: L_3 is their weighted sum, here 1 + 0.5 x 4 and 3 + 0.5 x 2."""
    made = criterion()
    made.weights["mask_auxiliary"] = 0.5
    terms = terms_of([0.6, 1.0])
    masks = {"mask": jnp.array([1.0, 3.0]), "mask_auxiliary": jnp.array([4.0, 2.0])}

    def total(losses):
        return made.total((), [MaskTerms(losses, terms.balance)], jnp.int32(0))

    (value, log), gradient = jax.value_and_grad(total, has_aux=True)(masks)
    np.testing.assert_allclose(value, (0.6 + 1.0) / 2, rtol=1e-6)
    np.testing.assert_allclose(gradient["mask"], [0.6 / 3 / 2, 1.0 / 4 / 2], rtol=1e-6)
    np.testing.assert_allclose(gradient["mask_auxiliary"], [0.1 / 2, 0.125 / 2], rtol=1e-6)
    assert log["mask"] == 2 and log["mask_auxiliary"] == 3  # as they are
    # A weight of the first is one of the whole, which the balance would take back.
    made.weights["mask"], made.weights["mask_auxiliary"] = 4.0, 2.0
    (four, _), gradients = jax.value_and_grad(total, has_aux=True)(masks)
    np.testing.assert_allclose(four, 4 * value, rtol=1e-6)
    np.testing.assert_allclose(gradients["mask"], 4 * gradient["mask"], rtol=1e-6)
    made.weights["mask"], made.weights["mask_auxiliary"] = 1.0, 0.5
    plain = terms_of([0.6, 1.0], kind=rank_sort.Group)
    value, _ = made.total((), [MaskTerms(masks, plain.balance)], jnp.int32(0))
    assert value == (3 + 4) / 2


def test_groups_without_a_positive_have_no_mask_loss_and_absent_ones_do_not_count():
    made = criterion()
    masks = {"mask": jnp.array([2.0, 0.0])}
    for exists, expected in (((True, True), 0.6 / 2), ((True, False), 0.6)):
        terms = terms_of([0.6, 1.0], exists, (True, False))
        value, _ = made.total((), [MaskTerms(masks, terms.balance)], jnp.int32(0))
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_a_mask_head_averages_by_weights_within_its_group():
    balance = terms_of([1.0, 1.0]).balance
    values = jnp.array([[1.0, 3.0], [5.0, jnp.nan], [7.0, 1.0], [1.0, 1.0]])
    weights = jnp.array([[1.0, 1.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(balance.mean(values, weights), [14 / 4, 0.0])


def test_a_positive_whose_prediction_misses_its_object_stays_one():
    boxes, targets = scene(images=1)
    logits, deltas = predictions(boxes.shape[:2])
    away = deltas.at[..., 0].set(500.0)
    terms, chosen = run("rpn", 1, boxes, targets, logits, away)
    flat = (x[0] for x in (logits, jnp.full(boxes.shape[:2], 1e-4), chosen.positive))
    ranking, sorting = ranking_of(*flat, chosen.rois.stats[0])
    np.testing.assert_allclose(terms.losses["rpn_objectness"], ranking + sorting, rtol=1e-5)
