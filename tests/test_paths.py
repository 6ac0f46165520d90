import pytest

from jaxseg import paths


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("backbone/stage1/block0/conv1/kernel", "backbone/stage1", True),
        ("backbone/stage10/kernel", "backbone/stage1", False),
        ("backbone/stage2/kernel", "backbone/stage[12]", True),
        ("fpn/backbone/kernel", "backbone", False),
        ("roi_heads/mask_head/conv0/bias", ".*/bias", True),
        ("backbone", "backbone", True),
        ("a/b", "b|a", True),
    ],
)
def test_matches(path, pattern, expected):
    assert paths.matches(path, ["nothing", pattern]) is expected
