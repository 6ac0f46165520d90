"""Anchors and proposals in the conventions of other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.modeling import rpn as rpn_lib
from jaxseg.structures import Pyramid

CANVAS = (
    96,
    160,
)  # P6 has 2 x 3 cells: 48 and 53 pixels a cell where anchors are spread over the canvas
SIZE = (40.0, 70.0)


def make(**settings) -> rpn_lib.RPN:
    head = rpn_lib.RPNHead(anchors_per_cell=1, channels=1)
    defaults = dict(anchor_sizes=(20, 50), aspect_ratios=(0.5,), coder=(1.0, 1.0, 1.0, 1.0))
    return rpn_lib.RPN(head, **defaults | settings)


def pyramid(image_size=(SIZE,)):
    levels = tuple(jnp.zeros((len(image_size), -(-96 // s), -(-160 // s), 1)) for s in (32, 64))
    return Pyramid(levels, jnp.asarray(image_size), (32, 64))


def test_fitted_stride_is_that_of_the_canvas():
    _, own = make().anchors(pyramid())
    _, fitted = make(fitted_stride=True).anchors(pyramid())
    np.testing.assert_array_equal((own[-1] - own[0])[:2], [128, 64])
    np.testing.assert_array_equal((fitted[-1] - fitted[0])[:2], [106, 48])


def test_rounded_anchors_have_whole_corners():
    fine, coarse = make(round_anchors=True).anchors(pyramid())
    np.testing.assert_array_equal(fine[0], [-14, -7, 14, 7])  # of 14.14 and 7.07
    np.testing.assert_array_equal(coarse[0], [-35, -18, 35, 18])


@pytest.mark.parametrize("ignore", [True, False])
def test_anchors_on_padding_are_candidates_where_padding_counts(ignore):
    rpn, sizes = make(ignore_padding=ignore), ((40.0, 70.0), (0.0, 0.0))
    anchors, _ = rpn.anchors(pyramid())
    may = rpn.candidates(anchors, jnp.asarray(sizes)).reshape(2, 3, 5)
    expected = np.ones((3, 5), bool)
    if ignore:
        expected[2:], expected[:, 3:] = False, False
    np.testing.assert_array_equal(may[0], expected)
    assert not may[1].any()  # an entry that only fills up the batch


def test_the_two_sided_clamp_bounds_how_small_a_proposal_gets():
    """A side of 20 pixels can shrink to 0.32, not to nothing."""
    deltas = [jnp.full((1, n, 4), 0.0).at[..., 2:].set(-20.0) for n in (15, 6)]
    logits = [jnp.zeros((1, n)) for n in (15, 6)]
    size = jnp.asarray([[96.0, 160.0]])

    def smallest(**settings):
        rpn = make(pre_nms=(9, 9), post_nms=(9, 9), **settings)
        found = jax.jit(lambda: rpn.propose(logits, deltas, pyramid(size), train=False))()
        boxes = np.asarray(found.boxes)[np.asarray(found.valid)]
        return (boxes[:, 2:] - boxes[:, :2]).min() if len(boxes) else 0.0

    height = 20 * np.sqrt(0.5)
    assert smallest() < 1e-6
    assert smallest(two_sided_clamp=True) == pytest.approx(height * 16 / 1000 / 2, rel=1.01)
