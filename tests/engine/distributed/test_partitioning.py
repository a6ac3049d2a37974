# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meshes, axis rules, and the checks before anything is divided."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from parti.engine.distributed import partitioning


def test_default_mesh_takes_all_devices() -> None:
    mesh = partitioning.make_mesh()
    assert dict(mesh.shape) == {"data": jax.device_count(), "model": 1}


def test_wrong_product_says_how_many_devices_there_are() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) asks for 6 devices, but there are 8"):
        partitioning.make_mesh((3, 2))
    with pytest.raises(ValueError, match="one size for each of MESH_AXES"):
        partitioning.make_mesh((8,))


def test_the_rest_of_the_devices() -> None:
    assert dict(partitioning.make_mesh((-1, 4)).shape) == {"data": 2, "model": 4}
    assert partitioning.mesh_sizes((-1, 16, 1), ("data", "stage", "model"), 1024) == (64, 16, 1)
    with pytest.raises(ValueError, match=r"a multiple of 3 devices, but there are 8"):
        partitioning.make_mesh((-1, 3))
    with pytest.raises(ValueError, match="one of them may be -1"):
        partitioning.make_mesh((-1, -1))
    with pytest.raises(ValueError, match="sizes are 1 or more"):
        partitioning.make_mesh((8, 0))


def test_first_free_rule_wins() -> None:
    rules = (("batch", "data"), ("mlp", "model"), ("embed", "model"), ("embed", "data"))
    mesh = partitioning.make_mesh((4, 2))
    rules = partitioning.axis_rules(rules, mesh)
    assert partitioning.spec(("batch", "length", "embed"), rules) == PartitionSpec(
        "data", None, "model"
    )
    assert partitioning.spec(("batch", "length", "mlp"), rules) == PartitionSpec(
        "data", None, "model"
    )
    assert partitioning.spec(("embed", "mlp"), rules) == PartitionSpec("data", "model")


def test_unknown_names_and_idle_devices_are_refused() -> None:
    mesh = partitioning.make_mesh((4, 2))
    with pytest.raises(ValueError, match="'embd', which no model has; did you mean 'embed'"):
        partitioning.axis_rules([("batch", "data"), ("embd", "model")], mesh)
    with pytest.raises(ValueError, match="puts 2 devices on 'model', but LOGICAL_AXIS_RULES puts"):
        partitioning.axis_rules([("batch", "data"), ("mlp", None)], mesh)
    assert partitioning.axis_rules([("batch", "data")], partitioning.make_mesh((8, 1)))


def test_rules() -> None:
    mesh = partitioning.make_mesh((4, 2))
    rules = partitioning.axis_rules(None, mesh)
    assert partitioning.spec(("embed", "heads", "kv"), rules) == PartitionSpec(None, "model", None)
    assert partitioning.batch_sharding(mesh, rules).spec == PartitionSpec("data")
    only_data = partitioning.make_mesh((8,), ("data",))
    rules = partitioning.axis_rules(None, only_data)
    assert partitioning.spec(("embed", "mlp"), rules) == PartitionSpec(None, None)
    with pytest.raises(ValueError, match="puts 'mlp' on 'tensor', but MESH_AXES are"):
        partitioning.axis_rules([("mlp", "tensor")], mesh)
    assert partitioning.axis_rules([["batch", ["data", "model"]]], mesh) == (
        ("batch", ("data", "model")),
    )


def test_indivisible_sizes_are_refused() -> None:
    mesh = partitioning.make_mesh((4, 2))
    partitioning.check_divisible("x", (4, 6), PartitionSpec("data", "model"), mesh)
    with pytest.raises(ValueError, match="kernel of shape .* 5 does not divide by 2"):
        partitioning.check_divisible("kernel", (3, 5), PartitionSpec(None, "model"), mesh)
    with pytest.raises(ValueError, match="12 does not divide by 8"):
        partitioning.check_divisible("x", (12,), PartitionSpec(("data", "model")), mesh)


def test_rows_are_placed_where_the_sharding_has_them() -> None:
    """Of one process they are all rows; with more, see `test_multihost`."""
    batch = np.arange(24, dtype=np.float32).reshape(8, 3)
    for shape in ((8, 1), (2, 4)):
        mesh = partitioning.make_mesh(shape)
        sharding = partitioning.batch_sharding(mesh, partitioning.axis_rules(None, mesh))
        np.testing.assert_array_equal(partitioning.process_rows(sharding, 8), np.arange(8))
        placed = partitioning.place_rows(batch, 8, sharding)
        assert placed.sharding == sharding
        for shard in placed.addressable_shards:
            np.testing.assert_array_equal(shard.data, batch[shard.index])
