"""Parameters that are spread over the processes come whole to each; a program of `tests/joined.py`."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxseg.training import sharding, validation

mesh = sharding.make_mesh()
value = np.arange(12.0, dtype=np.float32).reshape(4, 3)
variables = {
    name: jax.make_array_from_callback(
        value.shape, NamedSharding(mesh, spec), lambda index: value[index]
    )
    for name, spec in (("spread", PartitionSpec("data")), ("replicated", PartitionSpec()))
}
assert jax.process_count() == 2 and not variables["spread"].is_fully_addressable
for array in validation.on_this_host(variables).values():
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, value)
assert validation.of_first(jax.process_index()) == 0
print("whole")
