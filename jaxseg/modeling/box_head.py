"""The box head of Mask R-CNN: fully connected layers on 7x7 RoI features, then classes and box deltas.

With `convs=4, fcs=1` and a norm it is the "4conv1fc" head of Wu & He 2018 and of torchvision's v2 models.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg import precision
from jaxseg.modeling import layers, norms
from jaxseg.structures import Pyramid, RoIs


class FCBoxHead(nn.Module):
    """`convs` 3x3 convolutions with `norm`, then `fcs` fully connected layers, each followed by ReLU.

    Attributes:
      num_logits: the criterion's; 0: without a classifier.
      num_boxes: K, or 1 if class-agnostic; 0: without a box regressor.
      pool: RoIAlign on a pyramid.
    """

    num_logits: int
    num_boxes: int
    pool: Callable[..., Array]
    pool_size: int = 7
    fcs: int = 2
    fc_dim: int = 1024
    convs: int = 0
    channels: int = 256
    norm: Callable[..., nn.Module] = norms.Identity
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        pyramid: Pyramid,
        rois: RoIs,
        *,
        pool: Callable[..., Array] | None = None,
        train: bool,
    ) -> tuple[Float[Array, "B R L"], Float[Array, "B R G 4"]]:
        """Class logits and deltas for each RoI, float32; L is `num_logits`, G `num_boxes`.

        `pool` takes the place of the head's own.
        """
        x = (pool or self.pool)(pyramid, rois.boxes, self.pool_size)
        if self.convs:
            x = layers.roi_convolutions(
                x,
                rois.stats,
                count=self.convs,
                channels=self.channels,
                norm=self.norm,
                train=train,
                dtype=self.dtype,
            )
        x = x.reshape(*x.shape[:2], -1)

        def dense(size, init, name):
            return nn.Dense(size, kernel_init=init, dtype=self.dtype, name=name)

        for index in range(self.fcs):
            x = nn.relu(dense(self.fc_dim, layers.xavier, f"fc{index}")(x))

        def predict(size, init, name):
            # A layer of no outputs would be a parameter without elements, which no checkpoint takes.
            return dense(size, init, name)(x) if size else jnp.zeros((*x.shape[:2], 0), x.dtype)

        logits = predict(self.num_logits, layers.normal(0.01), "classes")
        deltas = predict(self.num_boxes * 4, layers.normal(0.001), "deltas")
        deltas = deltas.reshape(*deltas.shape[:2], self.num_boxes, 4)
        return precision.at_least_float32(logits), precision.at_least_float32(deltas)
