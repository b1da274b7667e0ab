import pytest

from experiments.reporting.groups import VariantGroup, group_variants
from experiments.reporting.tables import markdown
from experiments.reporting.wording import headline, p_value, p_value_typeset, seed_count
from tests.experiments.fake_run import fake_results, worse_results

NO_BREAK = "\N{NO-BREAK SPACE}"


def plain(sentence: str) -> str:
    return sentence.replace(NO_BREAK, " ")


def group(results=None, *, alone: bool = False, **changes) -> VariantGroup:
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
    """The sentence has the numbers of the results."""
    assert plain(headline(group())) == (
        "PRM-KD lifts SASRec’s Recall@10 by 16.4 % (p = 2×10⁻⁹), at the same serving cost"
    )


def test_headline_of_a_loss():
    """A significant loss is said to lower the metric, and the cost goes unmentioned."""
    sentence = plain(headline(group(worse_results())))
    assert sentence == "PRM-KD lowers SASRec’s Recall@10 by 7.0 % (p = 2×10⁻⁹)"


@pytest.mark.parametrize(("gain", "shown"), [(0.012, "+1.2 %"), (-0.012, "−1.2 %")])
def test_headline_of_noise(gain, shown):
    """A difference that may be chance is called neither a gain nor a loss."""
    sentence = headline(group(change=gain, t_p_holm=0.05))
    assert plain(sentence) == (
        f"PRM-KD changes SASRec’s Recall@10 by {shown}: no significant difference (p = 0.05)"
    )


def test_headline_claims_equal_cost_only_where_it_is_equal():
    """Cost goes unmentioned when the distilled model has one parameter more."""
    unequal = fake_results()
    unequal["variants"][1]["parameters"] += 1
    assert "cost" not in headline(group(unequal))


def test_headline_against_a_base_of_zero():
    """Where the improvement is None, the sentence says that the base is at 0."""
    sentence = headline(group(change=None))
    assert plain(sentence).startswith("PRM-KD reaches a Recall@10 of 0.1187 where SASRec’s is 0")


def test_headline_names_the_method_that_was_used():
    """A result of the method RD is told under RD's name, not PRM-KD's."""
    results = fake_results()
    results["variants"][1]["method"] = {"name": "rd", "label": "RD"}
    assert headline(group(results)).startswith("RD lifts SASRec’s Recall@10")


def test_headline_of_two_that_are_distilled_alike():
    """The variant's label stands in the sentence, so a method isn't said to change itself."""
    results = fake_results()
    plain_one, other = results["variants"]
    plain_one["method"], other["label"] = other["method"], "PRM-KD, a curriculum"
    assert headline(group(results)).startswith("PRM-KD, a curriculum lifts SASRec’s Recall@10")


def test_headline_without_distillation():
    """A run without teachers claims nothing of PRM-KD."""
    sentence = headline(group(alone=True))
    assert sentence == "SASRec alone reaches a Recall@10 of 0.1020"


def test_headline_of_a_distilled_student_that_is_compared_with_nothing():
    """A student that has teachers isn't said to be alone."""
    found = group()
    taught = found.reference | {"method": {"name": "prmkd", "label": "PRM-KD"}}
    sentence = headline(found._replace(reference=taught, compared=[]))
    assert sentence == "SASRec reaches a Recall@10 of 0.1020"


@pytest.mark.parametrize(
    ("numbers", "words"), [((1, 1), "1 seed"), ((3, 3), "3 seeds"), ((3, 1), "1 to 3 seeds")]
)
def test_variants_may_have_seeds_of_their_own(numbers, words):
    """The number of seeds is counted from the variants, as one number or a range."""
    results = fake_results()
    for variant, number in zip(results["variants"], numbers, strict=True):
        variant["seeds"] = variant["seeds"][:number]
    assert seed_count(results["variants"]) == words
    assert f"mean of {words};" in markdown(results, {})


def test_p_values_fit_their_column():
    """A p-value has at most 7 characters and never rounds to 0, even at 1e-310."""
    for exponent in range(-310, 1):
        p = 9.96 * 10.0 ** (exponent - 1)
        assert len(p_value(p)) <= 7
        assert p_value(p) not in ("0", "0.0")
        assert "e" not in p_value_typeset(p)
