"""Batches are on their way to the devices before they are asked for, and no more of them than are meant to be."""

import types

import jax
import numpy as np
import pytest

from jaxseg.training import sharding


@pytest.mark.parametrize(("size", "count"), [(1, 5), (2, 5), (3, 5), (3, 2)])
def test_so_many_transfers_are_ahead_of_the_step(monkeypatch, size, count):
    events = []
    put = sharding.put_batch

    def noted(batch, mesh):
        events.append(f"put {int(batch[0])}")
        return put(batch, mesh)

    monkeypatch.setattr(sharding, "put_batch", noted)
    mesh = sharding.make_mesh(jax.devices()[:1])
    host = (types.SimpleNamespace(batch=np.full(4, i)) for i in range(count))
    for number, (host_batch, batch) in enumerate(sharding.prefetch(host, mesh, size)):
        events.append(f"step {number}")
        assert isinstance(batch, jax.Array) and batch.sharding.mesh == mesh
        assert host_batch.batch.tolist() == batch.tolist() == [number] * 4
    expected = [f"put {i}" for i in range(min(size, count))]
    for number in range(count):
        expected.append(f"step {number}")
        if number + size < count:
            expected.append(f"put {number + size}")
    assert events == expected
