# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meshes, axis rules, and the checks before anything is divided."""

import jax
import pytest
from jax.sharding import PartitionSpec

from parti.engine import mesh as meshes


def test_default_mesh_takes_all_devices() -> None:
    mesh = meshes.make_mesh()
    assert dict(mesh.shape) == {"data": jax.device_count(), "model": 1}


def test_wrong_product_says_how_many_devices_there_are() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\) asks for 6 devices, but there are 8"):
        meshes.make_mesh((3, 2))
    with pytest.raises(ValueError, match="one size for each of MESH_AXES"):
        meshes.make_mesh((8,))


def test_the_rest_of_the_devices() -> None:
    assert dict(meshes.make_mesh((-1, 4)).shape) == {"data": 2, "model": 4}
    assert meshes.mesh_sizes((-1, 16, 1), ("data", "stage", "model"), 1024) == (64, 16, 1)
    with pytest.raises(ValueError, match=r"a multiple of 3 devices, but there are 8"):
        meshes.make_mesh((-1, 3))
    with pytest.raises(ValueError, match="one of them may be -1"):
        meshes.make_mesh((-1, -1))
    with pytest.raises(ValueError, match="sizes are 1 or more"):
        meshes.make_mesh((8, 0))


def test_first_free_rule_wins() -> None:
    rules = (("batch", "data"), ("mlp", "model"), ("embed", "model"), ("embed", "data"))
    mesh = meshes.make_mesh((4, 2))
    rules = meshes.axis_rules(rules, mesh)
    assert meshes.spec(("batch", "length", "embed"), rules) == PartitionSpec("data", None, "model")
    assert meshes.spec(("batch", "length", "mlp"), rules) == PartitionSpec("data", None, "model")
    assert meshes.spec(("embed", "mlp"), rules) == PartitionSpec("data", "model")


def test_unknown_names_and_idle_devices_are_refused() -> None:
    mesh = meshes.make_mesh((4, 2))
    with pytest.raises(ValueError, match="'embd', which no model has; did you mean 'embed'"):
        meshes.axis_rules([("batch", "data"), ("embd", "model")], mesh)
    with pytest.raises(ValueError, match="puts 2 devices on 'model', but LOGICAL_AXIS_RULES puts"):
        meshes.axis_rules([("batch", "data"), ("mlp", None)], mesh)
    assert meshes.axis_rules([("batch", "data")], meshes.make_mesh((8, 1)))


def test_rules() -> None:
    mesh = meshes.make_mesh((4, 2))
    rules = meshes.axis_rules(None, mesh)
    assert meshes.spec(("embed", "heads", "kv"), rules) == PartitionSpec(None, "model", None)
    assert meshes.batch_sharding(mesh, rules).spec == PartitionSpec("data")
    only_data = meshes.make_mesh((8,), ("data",))
    rules = meshes.axis_rules(None, only_data)
    assert meshes.spec(("embed", "mlp"), rules) == PartitionSpec(None, None)
    with pytest.raises(ValueError, match="puts 'mlp' on 'tensor', but MESH_AXES are"):
        meshes.axis_rules([("mlp", "tensor")], mesh)
    assert meshes.axis_rules([["batch", ["data", "model"]]], mesh) == (
        ("batch", ("data", "model")),
    )


def test_indivisible_sizes_are_refused() -> None:
    mesh = meshes.make_mesh((4, 2))
    meshes.check_divisible("x", (4, 6), PartitionSpec("data", "model"), mesh)
    with pytest.raises(ValueError, match="kernel of shape .* 5 does not divide by 2"):
        meshes.check_divisible("kernel", (3, 5), PartitionSpec(None, "model"), mesh)
    with pytest.raises(ValueError, match="12 does not divide by 8"):
        meshes.check_divisible("x", (12,), PartitionSpec(("data", "model")), mesh)
