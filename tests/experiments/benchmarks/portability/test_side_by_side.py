import os

from experiments.benchmarks.portability.side_by_side import in_processes


def made(name: str) -> tuple[str, int]:
    if name == "killed":
        os.abort()
    return name.upper(), os.getpid()


def test_a_process_that_dies_takes_no_other_with_it():
    """A wait for what never comes, results under another's name, or all in this process."""
    found = dict(in_processes(made, ["a", "killed", "b"], 2))
    assert found["killed"] is None
    assert found["a"][0] == "A"
    assert found["b"][0] == "B"
    assert len({found["a"][1], found["b"][1], os.getpid()}) == 3
