import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks.portability.lowering import (
    compile_for_tpu,
    compile_here,
    differences,
    exported_bytes,
    has_tpu_compiler,
    lower,
    read,
)
from experiments.benchmarks.portability.programs import JaxProgram

PROGRAM = JaxProgram(
    "both", lambda a, b: (jnp.linalg.eigh(a)[0], b + 1), (jnp.eye(3), jnp.ones((4, 300)))
)


def test_a_program_is_lowered_for_platforms_that_are_not_here():
    """This machine's own custom calls aren't reported for cuda and tpu."""
    lowered = lower(PROGRAM, ("cpu", "cuda", "tpu"))
    calls = {name: set(each.custom_calls) for name, each in lowered.items()}
    assert any("lapack" in name for name in calls["cpu"])
    assert not any("lapack" in name for name in calls["cuda"] | calls["tpu"])
    found = differences(lowered)
    assert any("lapack" in name for name in found["custom_calls"])
    # What is the same everywhere is not listed.
    assert all(len(set(each.values())) > 1 for each in found["operations"].values())


def test_one_exported_program_serves_all_platforms():
    """It has less than twice the bytes of a file for one platform."""
    adding = JaxProgram("adding", lambda a: a + 1, (jnp.ones(3),))
    together = exported_bytes(adding, ("cpu", "cuda", "tpu"))
    assert 0 < together < 2 * exported_bytes(adding, ("cpu",))


def test_what_stands_in_a_text_is_counted():
    """Operations of other dialects, calls and layouts count as well."""
    text = """
    %0 = stablehlo.add %a, %b
    %1 = stablehlo.add %0, %b
    %2 = stablehlo.custom_call @Sort(%1) {operand_layouts = [dense<[0, 1]>]} : x
    %3 = chlo.top_k(%2)
    """
    found = read(text)
    assert found.operations == {"chlo.top_k": 1, "stablehlo.add": 2, "stablehlo.custom_call": 1}
    assert found.custom_calls == {"Sort": 1}
    assert len(found.layouts) == 1


def test_memory_counts_what_is_donated_once():
    """A step that reuses its state's memory doesn't seem to need it twice."""
    kept = JaxProgram("kept", lambda a: a + 1, (jnp.ones(1000),))
    donated = JaxProgram("donated", lambda a: a + 1, (jnp.ones(1000),), donated=(0,))
    assert compile_here(kept).memory >= compile_here(donated).memory + 4000
    assert compile_here(donated).memory < 8000


@pytest.mark.skipif(not has_tpu_compiler(), reason="libtpu is not installed")
def test_a_tpu_program_is_compiled_without_a_tpu():
    """Padding to the TPU's tiles is counted."""
    odd = JaxProgram("odd", lambda a: a @ a.T, (jax.ShapeDtypeStruct((5, 129), jnp.float32),))
    compiled = compile_for_tpu(odd)
    assert compiled.arguments >= 4 * 8 * 256
    assert any("tiles" in layout for layout in compiled.layouts)
