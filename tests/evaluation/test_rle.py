"""Run lengths of a part of an image against pycocotools' of the whole."""

import hypothesis
import numpy as np
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from jaxseg.evaluation import rle


@st.composite
def regions(draw):
    """x, y, the region (width, height) and the image's size: also without pixels, at the borders, and as big as it."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    x, y = draw(st.integers(0, width)), draw(st.integers(0, height))
    if draw(st.booleans()):  # whole columns, in which runs go on from one to the next
        y = 0
    w, h = draw(st.integers(0, width - x)), draw(st.integers(0, height - y))
    if draw(st.booleans()):
        w, h = width - x, height - y
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    seed = draw(st.integers(0, 2**16))
    return x, y, np.random.default_rng(seed).random((w, h)) < share, (height, width)


@hypothesis.given(regions())
@hypothesis.settings(max_examples=200, deadline=None)
def test_a_region_gives_the_run_lengths_of_the_whole_image(case):
    x, y, region, size = case
    whole = np.zeros(size, np.uint8, order="F")
    whole[y : y + region.shape[1], x : x + region.shape[0]] = region.T
    found = rle.region_rle(x, y, region, size)
    assert found == {"size": list(size), "counts": mask_utils.encode(whole)["counts"].decode()}
    np.testing.assert_array_equal(rle.decode(found), whole)


def test_images_of_many_pixels():
    size = (3000, 4000)
    for region in (np.ones((4000, 3000), bool), np.eye(1500, dtype=bool)):
        found = rle.region_rle(0, 0, region, size)
        whole = np.zeros(size, np.uint8, order="F")
        whole[: region.shape[1], : region.shape[0]] = region.T
        assert found["counts"] == mask_utils.encode(whole)["counts"].decode()
