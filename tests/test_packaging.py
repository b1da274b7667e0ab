"""What pip is told, in pyproject.toml and in requirements.txt, says the same."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> list[tuple[str, str]]:
    """(requirement, its comment) of every line of requirements.txt that asks for a package."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    parts = [line.partition("#") for line in lines if line.partition("#")[0].strip()]
    return [(before.strip(), comment.strip()) for before, _, comment in parts]


# 250 MB in every fresh environment, for a test that is slow and seldom run.
LEFT_OUT = {"ray"}


def test_requirements_install_the_package_and_its_extras():
    extras = PROJECT["optional-dependencies"]
    needed = [one for name, extra in extras.items() if name not in LEFT_OUT for one in extra]
    asked = [*PROJECT["dependencies"], *needed]
    assert sorted(asked) == sorted(requirement for requirement, _ in requirements())


def test_every_bound_has_its_reason():
    assert [requirement for requirement, comment in requirements() if not comment] == []


@pytest.mark.parametrize("name", ["torch", "pytest", "polars", "matplotlib", "transformers"])
def test_serving_and_training_a_student_need_no_teachers_and_no_tests(name):
    assert not [one for one in PROJECT["dependencies"] if one.startswith(name)]
