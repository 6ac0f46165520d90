"""ResNets: their sizes, where they stride, what groups and deformable convolutions change."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import backbones
from configs import mask_rcnn as mask_rcnn_config
from jaxseg import methods
from jaxseg.methods import settings
from jaxseg.modeling import deform_conv, norms, resnet
from tests import simulated_devices

PLAIN = functools.partial(
    resnet.Bottleneck, channels=4, stride=1, norm=norms.FrozenBatchNorm, inner=4
)
# convolutions; with the scale and bias of batch norms (torchvision's totals without its classifier)
SIZES = {
    "r50": (23_454_912, 23_508_032),
    "r101": (42_394_816, 42_500_160),
    "x101_32x8d": (86_539_456, 86_742_336),
    "x101_32x4d": (41_990_848, 42_128_704),
    # In 4 + 23 + 3 blocks of 128, 256 and 512 channels, 18 or 27 outputs of 9 taps and a bias.
    "r101_dcn": (42_394_816 + 18 * (4 * 1153 + 23 * 2305 + 3 * 4609), None),
    "r101_dcnv2": (42_394_816 + 27 * (4 * 1153 + 23 * 2305 + 3 * 4609), None),
}


def backbone(name):
    return methods.build(mask_rcnn_config.get_config(name)).backbone


def shapes(module, size=64):
    """What `module` makes of one image, and its variables: shapes alone."""
    images, image_size = jnp.zeros((1, size, size, 3)), jnp.full((1, 2), float(size))
    call = functools.partial(module.init_with_output, train=False)
    return jax.eval_shape(call, jax.random.key(0), images, image_size)


def count(leaves):
    return sum(math.prod(leaf.shape) for leaf in leaves)


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts(name):
    levels, variables = shapes(backbone(name))
    assert [level.shape[1:] for level in levels] == [
        (64 // s, 64 // s, c) for s, c in zip((4, 8, 16, 32), (256, 512, 1024, 2048), strict=True)
    ]
    convolutions = count(jax.tree.leaves(variables["params"]))
    constants = jax.tree_util.tree_leaves_with_path(variables["batch_stats"])
    affine = count(leaf for path, leaf in constants if path[-1].key in ("scale", "bias"))
    expected, with_norms = SIZES[name]
    assert convolutions == expected
    assert with_norms in (None, convolutions + affine)


def test_parameter_count_of_mask_rcnn():
    assert methods.count_parameters(mask_rcnn_config.get_config("x101_32x8d")) == 107_427_760


@pytest.mark.parametrize("name", backbones.NAMES)
@pytest.mark.parametrize("arg", ["{},coco", "detectron2,{},exact", "{},runlocal"])
def test_every_backbone_of_the_configs_is_accepted(name, arg):
    config = mask_rcnn_config.get_config(arg.format(name))
    settings.validate(config)
    assert config.model.backbone.stride_in_1x1 == (
        arg.startswith("detectron2") and name.startswith(("r50", "r101"))
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 34, "groups": 32}, "groups=32 is a setting of bottlenecks, which depth=34 has"),
        (
            {"depth": 18, "deform": "v1"},
            "deform='v1' is .* allowed is 'none', or a depth of 50, 101",
        ),
        ({"depth": 18, "width_per_group": 8}, "width_per_group=8 is a setting of bottlenecks"),
        ({"deform": "v3"}, "deform='v3': allowed is none, v1, v2"),
        ({"deform": "v1", "deform_stages": (1, 2)}, "one or more, each 2, 3, 4"),
        ({"deform": "v1", "deform_stages": ()}, "one or more, each 2, 3, 4"),
        ({"deform": "v2", "deform_groups": 3}, "3 does not divide the 128 channels of .* stage 2"),
        ({"groups": 0}, "groups=0: allowed is a whole number >= 1"),
        (
            {"width": 8, "width_per_group": 4},
            "width=8 with width_per_group=4 leaves groups without",
        ),
    ],
)
def test_settings_without_meaning_are_refused(changes, message):
    config = mask_rcnn_config.get_config("r50,coco")
    with config.ignore_type():
        config.model.backbone.update(changes)
    with pytest.raises(ValueError, match=message):
        methods.build(config)


def test_inner_width_of_resnext():
    widths = [resnet.inner_width(64 * 2**i, 32, 8) for i in range(4)]
    assert widths == [256, 512, 1024, 2048]
    assert resnet.inner_width(64, 1, 128) == 128  # a wide ResNet


X = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 16)), jnp.float32)


def masks(block):
    mask = jnp.ones(X.shape[:3], bool)
    return {"mask": mask[:, :: block.stride, :: block.stride], "in_mask": mask, "train": False}


@functools.partial(jax.jit, static_argnums=0)
def run(block, variables, x=X):
    return block.apply(variables, x, **masks(block))


def random(shapes):
    """Numbers for a tree of shapes; the parameters of `offset` stay zero, as they start."""
    rng = np.random.default_rng(1)

    def numbers(path, leaf):
        zero = any(key.key == "offset" for key in path)
        return jnp.zeros(leaf.shape) if zero else jnp.asarray(rng.normal(size=leaf.shape) / 4)

    return jax.tree.map(
        lambda x: x.astype(jnp.float32), jax.tree_util.tree_map_with_path(numbers, shapes)
    )


def start(block):
    made = jax.eval_shape(lambda: block.init(jax.random.key(0), X, **masks(block)))
    return {"params": random(made["params"]), "batch_stats": ones(made["batch_stats"])}


def ones(shapes):
    return jax.tree.map(lambda x: jnp.ones(x.shape), shapes)


@pytest.mark.parametrize("in_1x1", [True, False])
def test_the_stride_is_in_the_3x3_or_in_the_1x1(in_1x1):
    """Striding in the 1x1, every other input cell goes unread; in the 3x3, none."""
    block = PLAIN(stride=2, stride_in_1x1=in_1x1)
    variables = start(block)
    same = run(block, variables, X.at[:, 1::2].set(0)) == run(block, variables)
    assert same.all() == in_1x1


def test_groups_read_their_own_channels():
    """A grouped 3x3 equals the plain one whose kernel is zero between groups."""
    grouped, plain = PLAIN(inner=8, groups=4), PLAIN(inner=8)
    variables = start(grouped)
    kernel = variables["params"]["conv2"]["kernel"]
    assert kernel.shape == (3, 3, 2, 8)
    wide = np.zeros((3, 3, 8, 8), np.float32)
    for g in range(4):
        group = slice(2 * g, 2 * g + 2)
        wide[:, :, group, group] = kernel[..., group]
    params = dict(variables["params"], conv2={"kernel": wide})
    np.testing.assert_allclose(
        run(grouped, variables), run(plain, dict(variables, params=params)), atol=1e-5
    )


def test_a_deformable_block_starts_as_the_plain_one():
    plain, deformed = PLAIN(stride=2), PLAIN(stride=2, deform="v1")
    variables, made = start(plain), start(deformed)
    conv2 = made["params"]["conv2"]
    assert {k: v.shape for k, v in conv2["offset"].items()} == {
        "kernel": (3, 3, 4, 18),
        "bias": (18,),
    }
    conv2 = dict(conv2, kernel=variables["params"]["conv2"]["kernel"])
    params = dict(variables["params"], conv2=conv2)
    np.testing.assert_allclose(
        run(deformed, dict(made, params=params)), run(plain, variables), atol=1e-5
    )


LAYER = deform_conv.DeformConv(6, 3, groups=2, deform_groups=2, version="v2")


@functools.partial(jax.jit, static_argnums=0)
def apply(layer, params, x=X):
    return layer.apply({"params": params}, x)


@pytest.fixture(scope="module")
def params():
    return random(jax.eval_shape(lambda: LAYER.init(jax.random.key(0), X))["params"])


def test_v2_starts_as_half_of_v1(params):
    v1 = deform_conv.DeformConv(6, 3, groups=2, deform_groups=2)
    offset = {"kernel": params["offset"]["kernel"][..., :36], "bias": jnp.zeros(36)}
    plain = apply(v1, dict(params, offset=offset))
    np.testing.assert_allclose(apply(LAYER, params), plain / 2, atol=1e-6)


def test_the_order_of_the_offset_channels(params):
    """dy, dx of each tap, group by group, then the factors; a group moves its own channels."""
    bias = np.zeros(54, np.float32)
    bias[18:36:2] = 1.0  # dy of the second group
    bias[36:45] = -1e9  # the first group counts nothing
    moved = dict(params, offset=dict(params["offset"], bias=jnp.asarray(bias)))
    second = X.at[..., :8].set(0)
    shifted = jnp.pad(second, ((0, 0), (0, 1), (0, 0), (0, 0)))[:, 1:]
    # But for the first row: above that of the shifted map is zero, while the moved taps find the map's own first row.
    found, expected = apply(LAYER, moved)[:, 1:], apply(LAYER, params, shifted)[:, 1:]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("depth", [18, 50])
def test_frozen_norms_leave_a_bias_between_convolution_and_relu(depth):
    """On a GPU no map is multiplied, in training neither: its library takes bias and ReLU into the convolution."""
    found = multiplied_maps(depth, norms.FrozenBatchNorm)
    assert found == 0
    if depth == 18:
        assert multiplied_maps(depth, norms.EvalBatchNorm) > 20  # this count sees norms


def multiplied_maps(depth, norm):
    module = resnet.ResNet(depth, 8, norm=norm, dtype=jnp.bfloat16)
    images, image_size = jnp.zeros((2, 64, 64, 3)), jnp.full((2, 2), 64.0)
    variables = jax.eval_shape(
        lambda: module.init(jax.random.key(0), images, image_size, train=False)
    )

    def total(params, constants, images):
        variables = {"params": params, "batch_stats": constants}
        levels = module.apply(variables, images, image_size, train=True, mutable=["batch_stats"])
        return sum(level.sum() for level in levels[0])

    grad = jax.jit(jax.grad(total)).trace(
        variables["params"], variables.get("batch_stats", {}), images
    )
    text = grad.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.convolution") > 2 * depth
    return len(re.findall(r"stablehlo.multiply .*tensor<2x\d+x\d+x\d+xbf16>", text))


@pytest.mark.slow
def test_eight_devices_equal_one_and_gather_nothing():
    found = simulated_devices.run("tests.modeling.devices", devices=8)
    assert found["difference"] < 1e-9
    assert not found["without gradient"] and not found["gathered"]
