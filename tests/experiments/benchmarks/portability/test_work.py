import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks.portability.ceilings import DEVICES, RATES, Device
from experiments.benchmarks.portability.work import work_of


def counted(function, *arguments):
    return work_of(jax.make_jaxpr(function)(*arguments))


def test_a_loops_body_counts_as_often_as_it_runs():
    """XLA counts it once, which would make a recurrent student look fifty times cheaper."""
    weights = jnp.ones((4, 4))

    def looped(state, inputs):
        return jax.lax.scan(lambda s, x: (s @ weights + x, None), state, inputs)[0]

    once = counted(lambda s, x: s @ weights + x, jnp.ones((2, 4)), jnp.ones((2, 4)))
    work = counted(looped, jnp.ones((2, 4)), jnp.ones((7, 2, 4)))
    assert once.products == 2 * 2 * 4 * 4
    assert work.products == 7 * once.products
    assert work.others == 7 * once.others == 7 * 8
    assert work.loops == 0


def test_a_loop_of_unknown_length_is_told():
    """The count, which is too low then, says how many such loops there are."""
    work = counted(lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, x), 1.0)
    assert work.loops == 1


def test_a_gather_moves_the_rows_it_takes():
    """Reading ten rows costs less than the table, whose gradient writes it once."""
    table, ids = jnp.ones((1000, 8)), jnp.arange(10)
    assert counted(lambda t, i: t[i], table, ids).moved < 4 * 1000
    # Its gradient writes the table once.
    moved = counted(jax.grad(lambda t, i: t[i].sum()), table, ids).moved
    assert 4 * 8 * 1000 < moved < 3 * 4 * 8 * 1000


def test_elementwise_work_is_fused_and_the_ends_count_once():
    """No intermediate result is written out, and an argument counts once."""
    work = counted(lambda x: jnp.tanh(x + 1) * x, jnp.ones(100))
    assert (work.moved, work.least, work.others) == (0, 800, 300)


def test_the_slower_of_computing_and_moving_decides():
    """6 GFLOP at 3 TFLOP/s take 2 ms, 4 GB at 1 TB/s take 4."""
    device = Device("d", "cuda", 1.0, 1e12, {"default": 3e12}, ())
    assert device.seconds(6e9, 4e9, "default") == pytest.approx(4e-3)
    assert device.seconds(6e9, 1e9, "default") == pytest.approx(2e-3)


def test_every_device_has_all_rates_and_a_source():
    """Every figure can be checked, and the H100's is the rate of dense matrices."""
    assert [device.name for device in DEVICES] == [
        "H100 SXM",
        "H200 SXM",
        "B200 HGX",
        "TPU v5e",
        "TPU v5p",
        "TPU v6e",
    ]
    for device in DEVICES:
        assert set(device.rates) == set(RATES)
        assert device.rates["highest"] < device.rates["default"] <= device.rates["bfloat16"]
        assert all(source.startswith("https://") for source in device.sources)
        assert device.sources
    assert DEVICES[0].rates["bfloat16"] < 1000e12
