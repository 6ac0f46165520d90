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


OURS = [
    *(f"params/heads/{head}/{leaf}" for head in ("box", "again") for leaf in ("fc", "classes")),
    "batch_stats/heads/box/norm",
    "batch_stats/heads/again/norm",
    "params/heads/between/kernel",
    "params/stem/kernel",
]
COPIES = {"heads/again": "heads/box", "heads/between": "", "heads/absent": "heads/box"}
PLAIN = [path for path in OURS if "again" not in path and "between" not in path]


def test_a_module_that_weights_lack_is_a_copy_and_one_that_they_have_is_not():
    found = paths.copies_of(OURS, PLAIN, COPIES)
    assert found == {
        "params/heads/again/fc": "params/heads/box/fc",
        "params/heads/again/classes": "params/heads/box/classes",
        "batch_stats/heads/again/norm": "batch_stats/heads/box/norm",
        "params/heads/between/kernel": "",
    }
    assert paths.copies_of(OURS, OURS, COPIES) == {}
    assert paths.copies_of(OURS, PLAIN, {}) == {}


@pytest.mark.parametrize("there", [PLAIN, OURS])
def test_what_is_renewed_in_a_copy_follows_what_is_renewed_in_the_other(there):
    renewed = {"params/heads/box/classes", "params/heads/again/classes"}
    found = paths.copies_of(OURS, there, COPIES, renewed)
    assert found["params/heads/again/classes"] == "params/heads/box/classes"
    assert ("params/heads/again/fc" in found) == (there is PLAIN)
    assert "params/heads/box/classes" not in found


def test_half_a_module_is_no_start():
    there = [path for path in OURS if path != "params/heads/again/classes"]
    with pytest.raises(
        ValueError,
        match=r"heads/again is there without heads/again/classes\. .* a copy of heads/box",
    ):
        paths.copies_of(OURS, there, COPIES)
    # ... but class layers start anew for other classes, wherever they are.
    renewed = {"params/heads/box/classes", "params/heads/again/classes"}
    assert list(paths.copies_of(OURS, there, COPIES, renewed)) == ["params/heads/again/classes"]


def test_without_the_other_there_is_nothing_to_copy():
    found = paths.copies_of(OURS, ["params/stem/kernel"], COPIES)
    assert found == {"params/heads/between/kernel": ""}


def test_modules_that_hold_nothing_else():
    again = [path for path in OURS if "again" in path]
    assert paths.modules(again, PLAIN) == ["heads/again"]
    assert paths.modules(again[:1], [*PLAIN, *again[1:]]) == ["heads/again/fc"]
    assert paths.modules(OURS[:-1], ["params/stem/kernel"]) == ["heads"]
