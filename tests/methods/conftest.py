"""A tiny Mask R-CNN, a batch for it, and its compiled loss, shared by the tests of this folder."""

import dataclasses

import jax
import pytest

from jaxseg import methods
from tests.methods import mask_heads, tiny


@dataclasses.dataclass
class Setup:
    config: object
    model: object
    variables: dict
    batch: object

    def __post_init__(self):
        loss = tiny.loss_function(self.model)
        self._gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def losses(self, batch, key=0):
        """(total, (log, batch statistics)), gradients."""
        return self._gradient(
            self.variables["params"], self.variables["batch_stats"], batch, jax.random.key(key)
        )


@pytest.fixture(scope="session")
def setup() -> Setup:
    config = tiny.config()
    model = methods.build(config)
    batch = tiny.batch()
    return Setup(config, model, tiny.variables(model, batch), batch)


@pytest.fixture(scope="session")
def pyramid():
    return mask_heads.pyramid()


@pytest.fixture(scope="session")
def rois():
    return mask_heads.rois()
