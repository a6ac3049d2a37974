# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parti.models import base
from parti.models.layers import attention, dense, masks, patches, positions, transformer


def stack_config(**changes):
    sizes = {"num_layers": 2, "emb_dim": 8, "num_heads": 2, "head_dim": 4, "mlp_dim": 16}
    return transformer.StackConfig(**(sizes | changes))


def init(module, *inputs):
    params = jax.jit(lambda rng: module.init(rng, *inputs)["params"])(jax.random.PRNGKey(0))
    return {"params": base.split_boxes(params)[0]}


# Masks.


@pytest.mark.parametrize(
    "window, most, pairs", [(3, 5, 4930), (5, 13, 12370), (11, 61, 52354), (0, 1024, 524800)]
)
def test_conv_mask_sees_as_many_keys_as_counted(window, most, pairs):
    mask = masks.conv_local_mask((32, 32), window)
    assert mask.sum() == pairs
    assert mask.sum(-1).max() == most


def test_conv_mask_by_hand():
    mask = masks.conv_local_mask((3, 3), 3)[0, 0]
    visible = ["".join("x" if seen else "." for seen in row) for row in mask]
    assert visible[4] == "xxxxx...."  # the centre
    assert visible[5] == ".xx.xx..."  # right edge: no wraparound
    assert visible[6] == "...xx.x.."  # left edge: the end of the row above is not near
    assert visible[0] == "x........"


@pytest.mark.parametrize("window", [2, -1])
def test_window_must_be_odd(window):
    with pytest.raises(ValueError, match=f"local_window is {window}; it must be 0"):
        masks.conv_local_mask((4, 4), window)


# Attention.


def test_attention_equals_numpy():
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(size=(3, 2, 5, 2, 4)).astype(np.float32)
    mask = np.asarray(masks.causal_mask(5))
    got = attention.dot_product_attention(query, attention.KeysValues(key, value), mask)
    logits = np.einsum("bqhd,bkhd->bhqk", query, key) / 2.0
    weights = np.where(mask, np.exp(logits), 0)
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(
        got, np.einsum("bhqk,bkhd->bqhd", weights, value), rtol=1e-4, atol=1e-5
    )


def test_masked_key_gets_no_gradient():
    layer = attention.MultiHeadAttention(8, 2, 4)
    x = jax.random.normal(jax.random.PRNGKey(1), (1, 3, 8))
    keys = jax.random.normal(jax.random.PRNGKey(2), (1, 4, 8))
    variables = init(layer, x, keys)
    mask = masks.padding_mask(jnp.array([[5, 6, 0, 7]]))
    gradient = jax.jit(jax.grad(lambda k: layer.apply(variables, x, k, mask).sum()))(keys)
    assert np.all(gradient[0, 2] == 0)
    assert np.all(np.any(gradient[0, np.array([0, 1, 3])] != 0, axis=-1))


def test_no_visible_key_is_not_nan():
    keys_values = attention.KeysValues(*jnp.ones((2, 1, 3, 2, 4)))
    got = attention.dot_product_attention(
        jnp.ones((1, 2, 2, 4)), keys_values, jnp.zeros((1, 1, 2, 3), bool)
    )
    np.testing.assert_allclose(got, 1.0)


def test_shared_keys_equal_repeated_keys():
    layer = attention.MultiHeadAttention(8, 2, 4)
    rng = jax.random.PRNGKey(0)
    x = jax.random.normal(rng, (12, 3, 8))
    prompts = jax.random.normal(rng, (2, 5, 8))  # two groups, of every second row three each
    null = jax.random.normal(rng, (1, 5, 8))  # one group of the rows between them
    variables = init(layer, x, x)
    visible = jnp.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]], bool)
    project = lambda encoded: layer.apply(variables, encoded, method="shared_keys_values")  # noqa: E731
    got = layer.apply(
        variables, x, [project(prompts), project(null)], [visible[:2], visible[2:]],
        method="decode_shared",
    )  # fmt: skip
    groups = np.stack([np.repeat([0, 1], 3), np.full(6, 2)], axis=1).ravel()
    repeated = jnp.concatenate([prompts, null])[groups]
    want = layer.apply(variables, x, repeated, visible[groups][:, None, None, :])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "grid, windows, blocks",
    [
        ((32, 32), [11], (64, 160)),
        ((16, 16), [5], (64, 32)),
        ((16, 16), [11], None),  # 144 of 256 keys
        ((8, 8), [3], None),  # a block of 64 is all
        ((64, 8), [5, 3], (64, 16)),
        ((32, 32), [11, 0], None),  # one layer is dense
    ],
)
def test_blocks_are_whole_rows_and_see_less_than_half(grid, windows, blocks):
    assert masks.local_blocks(grid, windows) == blocks


@pytest.mark.parametrize("dtype, atol", [("float32", 1e-5), ("bfloat16", 0.1)])
def test_attention_in_blocks_is_that_under_the_whole_mask(dtype, atol):
    """Values and gradients, with dropout; one window of the two sees less than the blocks hold."""
    full = np.stack([masks.conv_local_mask((12, 4), window) for window in (3, 5)])
    cut = masks.in_blocks(full, size=8, before=8)
    assert full.shape == (2, 1, 1, 48, 48) and cut.shape == (2, 1, 1, 6, 8, 16)
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2, 48, 3, 5)), dtype) for _ in range(4)]

    def run(attend, mask):
        def loss(query, key, value):
            key_rng = jax.random.key(1)
            x = attend(query, attention.KeysValues(key, value), mask, 0.3, key_rng)
            return jnp.sum((x * arrays[3]).astype("float32")), x

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*arrays[:3])

    for whole, blocks in zip(full, cut):
        (_, want), slopes = run(attention.dot_product_attention, whole)
        (_, got), found = run(attention.blocked_attention, blocks)
        for a, b in zip([got, *found], [want, *slopes], strict=True):
            np.testing.assert_allclose(np.float32(a), np.float32(b), atol=atol)


def test_a_block_that_hides_a_key_is_not_cut():
    with pytest.raises(AssertionError, match="sees what is not in its block"):
        masks.in_blocks(masks.conv_local_mask((4, 4), 5), size=4, before=4)


# Stacks.


@pytest.mark.parametrize("scan_layers", [True, False])
def test_stack_is_causal_and_deterministic(scan_layers):
    config = stack_config(scan_layers=scan_layers, dropout_rate=0.5)
    stack, mask = transformer.Stack(config), masks.causal_mask(4)
    x = jax.random.normal(jax.random.PRNGKey(1), (1, 4, 8))
    variables = init(stack, x, mask)
    apply = jax.jit(lambda x: stack.apply(variables, x, mask))
    before, after = apply(x), apply(x.at[0, 2].add(1.0))
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert np.all(np.any(before[:, 2:] != after[:, 2:], axis=-1))

    noisy = stack.apply(
        variables, x, mask, deterministic=False, rngs={"dropout": jax.random.key(0)}
    )
    assert np.any(noisy != before)


def test_scan_and_remat_change_nothing_but_the_tree():
    x = jax.random.normal(jax.random.PRNGKey(1), (2, 4, 8))
    encoded = jax.random.normal(jax.random.PRNGKey(2), (2, 3, 8))
    window = np.stack([masks.conv_local_mask((2, 2), w) for w in (1, 0)])
    index = jnp.array([0, 1])
    scanned = init(transformer.Stack(stack_config(cross_attention=True)), x, None, encoded)
    layers = scanned["params"]["layers"]
    unrolled = {"params": {"final_norm": scanned["params"]["final_norm"]}}
    for i in range(2):
        unrolled["params"][f"layers_{i}"] = jax.tree.map(lambda leaf: leaf[i], layers)  # noqa: B023

    def input_gradient(variables, **changes):
        stack = transformer.Stack(stack_config(cross_attention=True, **changes))

        def loss(x):
            y = stack.apply(variables, x, window, encoded, None, True, index)
            return jnp.sum(jnp.square(y) * jnp.arange(8))

        return jax.grad(loss)(x)

    @jax.jit
    def gradients():
        want = input_gradient(unrolled, scan_layers=False)
        return want, [input_gradient(scanned, remat=remat) for remat in ("none", "dots", "full")]

    want, found = gradients()
    for got in found:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="remat is 'some'; choose one of none, full, dots"):
        stack_config(remat="some")


def test_bfloat16_normalises_in_float32():
    x = jnp.full((1, 4), 1000.0, jnp.bfloat16) + jnp.array([[0, 8, 16, 24]], jnp.bfloat16)
    norm = transformer.layer_norm("bfloat16")
    got = norm.apply(init(norm, x), x)
    assert got.dtype == jnp.bfloat16
    want = (np.arange(4) - 1.5) / np.std(np.arange(4))
    np.testing.assert_allclose(np.float32(got[0]), want, atol=0.02)


def test_pooler_reads_the_whole_sequence():
    pooler = transformer.AttentionalPooler(3, 8, 2, 4)
    x = jax.random.normal(jax.random.PRNGKey(1), (2, 5, 8))
    variables = init(pooler, x)
    assert pooler.apply(variables, x).shape == (2, 3, 8)
    jacobian = jax.jit(jax.jacobian(lambda x: pooler.apply(variables, x).sum((0, 1))))(x)
    assert np.all(np.any(jacobian != 0, axis=(0, -1)))


def test_dense_contracts_several_axes():
    layer = dense.Dense((2, 3), ("heads", "kv", "embed", "mlp"), num_inputs=2)
    x = jax.random.normal(jax.random.PRNGKey(0), (2, 6, 4, 5))
    variables = init(layer, x)
    want = np.einsum("blhd,hdxy->blxy", x, variables["params"]["kernel"])
    np.testing.assert_allclose(layer.apply(variables, x), want, rtol=1e-4, atol=1e-5)


# Positions and patches.


def test_image_positions_are_row_plus_column():
    table = positions.ImagePositions((2, 3), 4)
    variables = init(table)
    got = table.apply(variables)
    rows, columns = (variables["params"][f"{name}_embedding"] for name in ("row", "column"))
    np.testing.assert_allclose(got[4], rows[1] + columns[1])
    for position in range(6):
        np.testing.assert_array_equal(got[position], table.apply(variables, position, method="at"))


def test_text_longer_than_the_table_is_an_error():
    table = positions.TextPositions(4, 8)
    assert table.apply(init(table, 3), 3).shape == (3, 8)
    with pytest.raises(ValueError, match="text of 5 tokens, but the model has 4 positions"):
        table.apply(init(table, 3), 5)


def test_patches_are_in_raster_order_and_go_back():
    images = jnp.arange(2 * 4 * 6 * 1).reshape(2, 4, 6, 1)
    got = patches.patchify(images, 2)
    assert got.shape == (2, 6, 4)
    np.testing.assert_array_equal(got[0, 1], [2, 3, 8, 9])
    np.testing.assert_array_equal(patches.unpatchify(got, (2, 3), 2), images)
    with pytest.raises(ValueError, match="image of 4x6 pixels does not divide into patches of 4"):
        patches.patchify(images, 4)
