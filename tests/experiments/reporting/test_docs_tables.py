"""The README's and the docs' own views of a study, from made-up results."""

import pytest

from experiments.reporting.docs_tables import VIEWS, headline, lists, models, paper, students
from experiments.reporting.pages import fill
from prmkd_jax.common.errors import UserError
from tests.experiments.fake_run import base_only_results, fake_results, fake_timing


@pytest.fixture
def results() -> dict:
    """Typed figures: a student alone, a distilled one, two teachers."""
    found = fake_results()
    base, distilled = found["variants"]
    for one, recall, ndcg in ((base, 0.10, 0.050), (distilled, 0.12, 0.075)):
        for key, factor in (("test", 1.0), ("test_masked", 2.0), ("test_before_refit", 0.5)):
            known = {"Recall@10": factor * recall, "NDCG@10": factor * ndcg}
            one[key] = {**one["test"], **known}
    distilled["test_masked"]["NDCG@10"] = 0.11
    distilled["against"]["NDCG@10"]["t_p_holm"] = 3e-9
    distilled["against"]["Recall@10"]["t_p_holm"] = 0.02
    teachers = found["teachers"]
    teachers["unisrec"]["test"] |= {"Recall@10": 0.11, "NDCG@10": 0.060}
    nothing = {**teachers["unisrec"], "label": "Neighbours (untrained)", "parameters": 0}
    nothing["test"] = {**nothing["test"], "Recall@10": 0.09, "NDCG@10": 0.070}
    found["untrained"] = {"neighbours": nothing}
    found["teachers"] = {"unisrec": teachers["unisrec"], "neighbours": nothing}
    found["settings"]["teachers"] = ["unisrec", "neighbours"]
    distilled["teacher_weights"] = {"unisrec": 0.5, "neighbours": 0.5}
    distilled["against_models"] = {
        "unisrec": {"NDCG@10": {"change": 0.25, "t_p_holm": 4e-7, "wilcoxon_p_holm": 0.03}}
    }
    found["models"] = {"neighbours": {"test_masked": {"NDCG@10": 0.1}, "test": nothing["test"]}}
    return found


def test_the_headline_says_who_gains_what_over_whom(results):
    """The improvement and its p-value in each metric are those over the plain student."""
    label = results["teachers"]["unisrec"]["label"]
    assert headline(results, fake_timing()).splitlines() == [
        "| model | Recall@10 | NDCG@10 | parameters served |",
        "|---|---|---|---|",
        f"| the best trained teacher, {label} | 0.1100 | 0.0600 | 5.78 M |",
        "| Neighbours (untrained) | 0.0900 | 0.0700 | – |",
        "| SASRec | 0.1000 | 0.0500 | 2.78 M |",
        f"| **the same SASRec, distilled from {label} and Neighbours (untrained)** | **0.1200** "
        "| **0.0750** | **2.78 M** |",
        "| improvement over SASRec (p, paired t-test) | +20.0 % (0.02) | +50.0 % (3e-9) | none |",
        "",
        "Means of 3 seeds; the students have seen the validation items before the test. With what "
        "a user already has masked for all models, its lead in NDCG@10 is +10.0 % against SASRec "
        "and +10.0 % against Neighbours (untrained).",
    ]


def test_a_headline_over_a_student_that_finds_nothing(results):
    """Where the student hits no target, the improvement is a dash."""
    base, _ = results["variants"]
    base["test"]["Recall@10"] = 0.0
    lines = headline(results, fake_timing()).splitlines()
    assert (
        "| improvement over SASRec (p, paired t-test) | – (0.02) | +50.0 % (3e-9) | none |" in lines
    )


def test_the_test_stands_where_the_distilled_student_is_the_reference(results):
    """The p-values are found with the student alone, as in the study of sources."""
    base, distilled = results["variants"]
    base |= {"reference": distilled["name"], "against": distilled["against"]}
    distilled |= {"reference": None, "against": None}
    assert "| +20.0 % (0.02) | +50.0 % (3e-9) |" in headline(results, fake_timing())


def test_students_by_every_protocol(results):
    """The deviation over the seeds stands beside NDCG@10; one seed has none."""
    base, distilled = results["variants"]
    base["test_std"] = None
    distilled["test_std"] = {**distilled["test"], "NDCG@10": 0.0012}
    lines = students(results, fake_timing()).splitlines()
    assert lines[2] == (
        "| SASRec | 0.1000 | 0.0500 |  |  | 0.0500 / 0.0250 | 0.2000 / 0.1000 | 7.26 s |"
    )
    assert lines[3].startswith("| PRM-KD (SASRec) | 0.1200 | 0.0750 ± 0.0012 | ")
    assert lines[3].endswith(" | 3e-9 | 0.0600 / 0.0375 | 0.2400 / 0.1100 | 7.98 s |")


def test_models_with_their_distance_to_the_student(results):
    """A lead is that of the distilled student; a model that wasn't tested has dashes for p."""
    lines = models(results, fake_timing()).splitlines()
    assert lines[2].endswith(" | – | +25.0 % | 4e-7 | 0.03 |")
    assert lines[3].endswith(" | 0.1000 | +7.1 % | – | – |")
    assert lines[4].startswith("| *PRM-KD (SASRec)* |")


def test_models_with_the_students_alone_that_are_not_the_reference(results):
    """Each has a row with its own p-values, and the reference has only one row."""
    base, distilled = results["variants"]
    other = {**base, "name": "base-text", "label": "SASRec from texts"}
    other["test"] = {**base["test"], "NDCG@10": 0.08}
    results["variants"].insert(1, other)
    distilled["against_alone"] = {
        "base-text": {"NDCG@10": {"change": -0.0625, "t_p_holm": 5e-3, "wilcoxon_p_holm": 0.4}}
    }
    lines = models(results, fake_timing()).splitlines()
    assert lines[4].startswith("| SASRec from texts | ")
    assert lines[4].endswith(" | 0.1000 | -6.2 % | 0.005 | 0.4 |")
    assert lines[5].startswith("| *PRM-KD (SASRec)* |")
    assert len(lines) == 6


def test_tests_with_seen_items_masked_stand_beside_their_leads(results):
    """Each model has its own p-values of the masked protocol, in the table and the headline."""
    base, distilled = results["variants"]
    other = {**base, "name": "base-text", "label": "SASRec from texts"}
    results["variants"].insert(1, other)
    tested = {"change": 0.1, "t_p_holm": 0.03, "wilcoxon_p_holm": 0.2}
    distilled["against_alone"] = {"base-text": {"NDCG@10": tested}}
    distilled["masked"] = {
        "against": {"NDCG@10": {**tested, "t_p_holm": 4e-5}},
        "against_models": {"neighbours": {"NDCG@10": {**tested, "t_p_holm": 0.06}}},
        "against_alone": {"base-text": {"NDCG@10": {**tested, "t_p_holm": 7e-3}}},
    }
    head, _, _, nothing, texts, last = models(results, fake_timing()).splitlines()
    assert head.endswith(" | p, Wilcoxon | lead, masked | p, t-test | p, Wilcoxon |")
    assert nothing.endswith(" | +7.1 % | – | – | +10.0 % | 0.06 | 0.2 |")
    assert texts.endswith(" | 0.03 | 0.2 | +10.0 % | 0.007 | 0.2 |")
    assert last.count("|") == head.count("|")
    assert headline(results, fake_timing()).endswith(
        "its lead in NDCG@10 is +10.0 % (p 4e-5) against SASRec, +10.0 % (p 0.007) against SASRec "
        "from texts and +10.0 % (p 0.06) against Neighbours (untrained)."
    )


def test_the_papers_cells_stand_beside_ours(results):
    """Models that were not run keep their rows, and a data set the paper lacks is refused."""
    results["data"]["name"] = "Toys"
    results["teachers"]["unisrec"]["label"] = "UniSRec text+ID"
    lines = paper(results, fake_timing()).splitlines()
    assert lines[0].startswith("| model | Recall@5 | Recall@10 | Recall@20 | NDCG@5 | NDCG@10 |")
    rows = {cells[1].strip(): cells[2:-1] for cells in (line.split("|") for line in lines[2:])}
    assert list(rows) == [
        "UniSRec", "Recformer", "UniM²Rec", "GRU4Rec", "SASRec", "BERT4Rec", "RecGURU", "PRM-KD",
    ]  # fmt: skip
    assert rows["UniSRec"][4] == " 0.0600 (0.0745) "
    assert rows["SASRec"][1] == " 0.1000 (0.0979) "
    assert rows["PRM-KD"][4] == " 0.0750 (0.0784) "
    assert rows["BERT4Rec"][1] == " – (0.0829) "
    results["data"]["name"] = "Beauty"
    with pytest.raises(UserError, match="found Beauty, expected one of Instruments, Toys"):
        paper(results, fake_timing())


def test_what_the_lists_are_like(results):
    """Each variant's row has its own figures, and a dash for a figure it lacks."""
    base, distilled = results["variants"]
    base["lists"], distilled["lists"] = {"coverage": 0.25}, {"coverage": 0.5, "tail": 0.125}
    base["test"]["MRR"], distilled["test"]["MRR"] = 0.03125, 0.0625
    lines = lists(results, fake_timing()).splitlines()
    assert lines[0].startswith("Lists of ten, test part")
    assert lines[2].startswith("| variant | MRR | coverage | Gini | tail |")
    assert lines[4].startswith(f"| {base['label']} | 0.0312 | 0.250 | – | – |")
    assert lines[5].startswith(f"| {distilled['label']} | 0.0625 | 0.500 | – | 0.125 |")


def test_a_study_without_a_distilled_student_is_refused():
    with pytest.raises(UserError, match="found no distilled student, or none alone"):
        headline(base_only_results(), fake_timing())


def test_a_block_names_its_view():
    """A block that names no view asks for the whole study."""
    page = (
        "<!-- made of a.json: headline -->\n<!-- end -->\n<!-- made of b.json -->\n<!-- end -->\n"
    )
    asked = []
    fill(page, lambda name, view: asked.append((name, view)) or "", "page.md")
    assert asked == [("a.json", "headline"), ("b.json", "")]
    assert set(VIEWS) == {"headline", "students", "models", "paper", "lists"}
