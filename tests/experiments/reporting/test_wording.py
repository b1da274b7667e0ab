import pytest

from experiments.reporting.groups import Group, group_variants
from experiments.reporting.tables import markdown
from experiments.reporting.wording import headline, p_value, p_value_typeset, seed_count
from tests.experiments.fake_run import fake_results, worse_results

NO_BREAK = "\N{NO-BREAK SPACE}"


def plain(sentence: str) -> str:
    return sentence.replace(NO_BREAK, " ")


def group(results=None, *, alone: bool = False, **changes) -> Group:
    """The only group of some results.

    Args:
        results: the usual ones where None.
        alone: whether the plain student stands by itself.
        changes: of the comparison on Recall@10.
    """
    results = results or fake_results()
    if alone:
        results["variants"] = results["variants"][:1]
    else:
        results["variants"][1]["against"]["Recall@10"] |= changes
    (found,) = group_variants(results)
    return found


def test_headline_of_a_gain():
    """Breaks if the sentence has another number than the results."""
    assert plain(headline(group())) == (
        "PRM-KD lifts SASRec’s Recall@10 by 16.4 % (p = 2×10⁻⁹), at the same serving cost"
    )


def test_headline_of_a_loss():
    """Breaks if a significant loss is called a gain, or is sold with its cost."""
    sentence = plain(headline(group(worse_results())))
    assert sentence == "PRM-KD lowers SASRec’s Recall@10 by 7.0 % (p = 2×10⁻⁹)"


@pytest.mark.parametrize(("gain", "shown"), [(0.012, "+1.2 %"), (-0.012, "−1.2 %")])
def test_headline_of_noise(gain, shown):
    """Breaks if a difference that may be chance is called a gain or a loss."""
    sentence = headline(group(change=gain, t_p_holm=0.05))
    assert plain(sentence) == (
        f"PRM-KD changes SASRec’s Recall@10 by {shown}: no significant difference (p = 0.05)"
    )


def test_headline_claims_equal_cost_only_where_it_is_equal():
    """Breaks if a larger distilled model is said to cost the same."""
    unequal = fake_results()
    unequal["variants"][1]["parameters"] += 1
    assert "cost" not in headline(group(unequal))


def test_headline_against_a_base_of_zero():
    """Breaks if an improvement that doesn't exist (None) raises or is invented."""
    sentence = headline(group(change=None))
    assert plain(sentence).startswith("PRM-KD reaches a Recall@10 of 0.1187 where SASRec’s is 0")


def test_headline_names_the_method_that_was_used():
    """Breaks if a rival's result is reported under PRM-KD's name."""
    results = fake_results()
    results["variants"][1]["method"] = {"name": "rd", "label": "RD"}
    assert headline(group(results)).startswith("RD lifts SASRec’s Recall@10")


def test_headline_of_two_that_are_distilled_alike():
    """A method that is said to change itself."""
    results = fake_results()
    plain_one, other = results["variants"]
    plain_one["method"], other["label"] = other["method"], "PRM-KD, a curriculum"
    assert headline(group(results)).startswith("PRM-KD, a curriculum lifts SASRec’s Recall@10")


def test_headline_without_distillation():
    """Breaks if a run without teachers claims anything of PRM-KD."""
    sentence = headline(group(alone=True))
    assert sentence == "SASRec alone reaches a Recall@10 of 0.1020"


def test_headline_of_a_distilled_student_that_is_compared_with_nothing():
    """Breaks if a student with teachers is said to be alone."""
    found = group()
    taught = found.reference | {"method": {"name": "prmkd", "label": "PRM-KD"}}
    sentence = headline(found._replace(reference=taught, compared=[]))
    assert sentence == "SASRec reaches a Recall@10 of 0.1020"


@pytest.mark.parametrize(
    ("numbers", "words"), [((1, 1), "1 seed"), ((3, 3), "3 seeds"), ((3, 1), "1 to 3 seeds")]
)
def test_variants_may_have_seeds_of_their_own(numbers, words):
    """Breaks if `--variant_flags=base: seeds=0` counts as the settings' three seeds."""
    results = fake_results()
    for variant, number in zip(results["variants"], numbers, strict=True):
        variant["seeds"] = variant["seeds"][:number]
    assert seed_count(results["variants"]) == words
    assert f"mean of {words};" in markdown(results, {})


def test_p_values_fit_their_column():
    """Breaks if a p-value overflows the terminal's column or rounds to 0."""
    for exponent in range(-310, 1):
        p = 9.96 * 10.0 ** (exponent - 1)
        assert len(p_value(p)) <= 7
        assert p_value(p) not in ("0", "0.0")
        assert "e" not in p_value_typeset(p)
