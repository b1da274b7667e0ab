"""Flags of XLA that the tests set, by its version: it ends at one that it doesn't know."""

from importlib import metadata

# A later XLA has the fusion emitters alone.
_MAY_DO_WITHOUT = metadata.version("jaxlib").startswith("0.10.")

# What LLVM would make faster runs for milliseconds here. Without the fusion emitters a step
# compiles in a quarter of the time (SASRec's 4.8 s of CPU to 1.2, distilled 6.4 to 1.7).
QUICK = "--xla_backend_optimization_level=0"
if _MAY_DO_WITHOUT:
    # By default a program's code is made in 32 parts at once; the tests' processes fill the cores.
    QUICK += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

AS_OUTSIDE: dict[str, bool | int | str] = (
    {"xla_cpu_use_fusion_emitters": True} if _MAY_DO_WITHOUT else {}
)
"""Compiler options of a program that is to be fused as it is outside the tests."""
