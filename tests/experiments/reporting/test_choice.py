import math

import pytest

from experiments.reporting.choice import Candidate, candidates, choice_lines, choice_table, order
from experiments.reporting.tables import markdown
from tests.experiments.fake_run import fake_results, fake_timing


def named(**of: tuple[float, float]) -> list[Candidate]:
    return [Candidate(name, *values) for name, values in of.items()]


def test_the_order_is_kendalls():
    """Of six pairs, one (c and d) stands the other way round: (5 − 1) / 6."""
    found = named(a=(0.01, 0.02), b=(0.02, 0.03), c=(0.03, 0.09), d=(0.04, 0.05))
    assert order(found) == pytest.approx(4 / 6)


def test_ties_everywhere_are_no_order():
    assert math.isnan(order(named(a=(0.0, 0.1), b=(0.0, 0.2), c=(0.0, 0.3), d=(0.0, 0.4))))


def test_a_refitted_student_counts_as_validation_saw_it():
    """The test value before the refit stands beside the validation of the same student."""
    results = fake_results()
    student = results["variants"][-1]
    student["test_before_refit"] = {**student["test"], "NDCG@10": 0.0123}
    found = {one.label: one for one in candidates(results)}
    assert found[student["label"]].test == 0.0123
    assert found[student["label"]].validation == student["validation"]["NDCG@10"]
    assert {one["label"] for one in results["teachers"].values()} <= set(found)
    assert "before the refit" in choice_lines(results)[1]
    student["test_before_refit"] = None
    assert "before the refit" not in choice_lines(results)[1]


def test_a_study_says_what_validation_would_have_chosen():
    results = fake_results()
    for number, variant in enumerate(results["variants"]):
        variant["validation"] = {**variant["validation"], "NDCG@10": 0.5 - number / 10}
    first = results["variants"][0]
    (line,) = [line for line in markdown(results, fake_timing()).splitlines() if "Kendall" in line]
    assert f"prefers {first['label']}, which has {first['test']['NDCG@10']:.4f} on the test" in line
    assert "is the best with" in line


def test_an_order_of_few_says_nothing():
    results = fake_results()
    results["teachers"], results["untrained"] = {}, {}
    results["variants"] = results["variants"][:3]
    assert choice_lines(results) == []


def test_several_studies_are_counted():
    """One whose first choice wins on the test, one whose does not, and one of too few models."""
    right, wrong, few = fake_results(), fake_results(), fake_results()
    for results, winner in ((right, 0), (wrong, 1)):
        first, other = results["variants"][:2]
        first["validation"] = {**first["validation"], "NDCG@10": 0.9}
        best = results["variants"][winner]
        best["test"] = {**best["test"], "NDCG@10": 0.8}
        first["test_before_refit"] = other["test_before_refit"] = None
    few["teachers"], few["untrained"], few["variants"] = {}, {}, few["variants"][:3]
    said, _, _, _, *rows = choice_table({"right": right, "wrong": wrong, "few": few}).splitlines()
    assert said.startswith("In 1 of 2 studies")
    assert [row.split(" | ")[0] for row in rows] == ["| right", "| wrong"]
    first, other = wrong["variants"][:2]
    assert rows[0].endswith(f"| {first['label']} | 0.9000 and 0.8000 |  |")
    assert rows[1].endswith(f"| {other['label']}, 0.8000 |")
