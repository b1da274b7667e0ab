import os

from experiments.benchmarks.portability.side_by_side import in_processes


def made(name: str) -> tuple[str, int]:
    if name == "killed":
        os.abort()
    return name.upper(), os.getpid()


def test_a_process_that_dies_takes_no_other_with_it():
    """The others give their own results, each from a process of its own."""
    found = dict(in_processes(made, ["a", "killed", "b"], 2))
    assert found.pop("killed") is None
    assert {name: each and each[0] for name, each in found.items()} == {"a": "A", "b": "B"}
    assert len({os.getpid(), *(each and each[1] for each in found.values())}) == 3
