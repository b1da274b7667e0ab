"""Tables of the README and the docs that show less of a study than its page, or other columns."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from experiments.reporting.groups import teachers_in_order
from experiments.reporting.list_table import list_lines
from experiments.reporting.paper import MODELS, TABLE3, paper_value, papers_name
from experiments.reporting.results import (
    Comparison,
    Metrics,
    Results,
    TeacherResult,
    Timing,
    VariantResult,
)
from experiments.reporting.tables import COLUMNS
from experiments.reporting.wording import (
    MISSING,
    count,
    decimals,
    lookup,
    p_value,
    percent,
    seconds,
    seed_count,
)
from prmkd_jax.common.errors import UserError
from prmkd_jax.evaluate.metrics import KEY_METRIC, KEY_METRICS


class _Compared(NamedTuple):
    """The variants that these tables speak of.

    Attributes:
        distilled: the first one that is.
        alone: the students that learn without teachers, the plain one first.
    """

    distilled: VariantResult
    alone: list[VariantResult]


def headline(results: Results, timing: Timing) -> str:
    """The best teachers, the students alone, the distilled one, and what it gains."""
    compared = _compared(results)
    distilled, plain = compared.distilled, compared.alone[0]
    lines = ["| model | Recall@10 | NDCG@10 | parameters served |", "|---|---|---|---|"]
    for words, model in _best_teachers(results).items():
        lines.append(_row(f"{words}{model['label']}", model["test"], model))
    lines += [_row(one["label"], one["test"], one) for one in compared.alone]
    taught = _named([each["label"] for each in _own_teachers(results, distilled).values()])
    label = f"the same {distilled['student']['label']}, distilled from {taught}"
    lines.append(_row(label, distilled["test"], distilled, bold=True))
    gains = [_gain(distilled, plain, metric) for metric in KEY_METRICS]
    cost = percent(distilled["parameters"] / plain["parameters"] - 1)
    cost = "none" if distilled["parameters"] == plain["parameters"] else cost
    words = f"improvement over {plain['label']} (p, paired t-test)"
    lines += [f"| {words} | {' | '.join(gains)} | {cost} |", "", _masked(results, compared)]
    return "\n".join(lines)


def students(results: Results, timing: Timing) -> str:
    """The variants by every protocol: after and before the refit, and without what users have."""
    lines = [
        "| model | Recall@10 | NDCG@10 ± over seeds | change of NDCG@10 against "
        f"{results['study']['versus']} | p, t-test | before the refit | seen items masked | "
        "an epoch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results["variants"]:
        against = (one["against"] or {}).get(KEY_METRIC)
        change = ["", ""]
        if against is not None:
            change = [percent(against["change"]), p_value(against["t_p_holm"])]
        before, masked = (one.get(key) for key in ("test_before_refit", "test_masked"))
        epoch = seconds(lookup(timing, "variants", one["name"], "seconds_per_epoch"))
        recall, ndcg = _metric_cells(one["test"])
        if one["test_std"] is not None:
            ndcg += f" ± {decimals(one['test_std'][KEY_METRIC])}"
        cells = [recall, ndcg, *change, _pair(before), _pair(masked), epoch]
        lines.append(f"| {one['label']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def models(results: Results, timing: Timing) -> str:
    """Each teacher, untrained model and other start, and how far the distilled student is ahead."""
    distilled = _compared(results).distilled
    rivals = _rivals(results, distilled)
    tested_masked = any(rival.tested_masked for rival in rivals)
    head = [
        *("model", *COLUMNS, "NDCG@10, seen items masked"),
        *("the distilled student's lead in NDCG@10", "p, t-test", "p, Wilcoxon"),
        *(("lead, masked", "p, t-test", "p, Wilcoxon") if tested_masked else ()),
    ]
    own, rows = distilled.get("test_masked"), []
    for rival in rivals:
        cells = [rival.label, *(decimals(rival.test[metric]) for metric in COLUMNS)]
        cells.append(decimals(rival.masked[KEY_METRIC]) if rival.masked else MISSING)
        cells += [_lead(distilled["test"], rival.test), *_tests(rival.tested)]
        if tested_masked:
            ahead = _lead(own, rival.masked) if own and rival.masked else MISSING
            cells += [ahead, *_tests(rival.tested_masked)]
        rows.append(cells)
    cells = [distilled["label"], *(decimals(distilled["test"][metric]) for metric in COLUMNS)]
    cells.append(decimals(own[KEY_METRIC]) if own else MISSING)
    last = [f"*{cell}*" for cell in cells]
    rows.append([*last, *[""] * (len(head) - len(last))])
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def paper(results: Results, timing: Timing) -> str:
    """The models of the paper's Table 3, in brackets its own figures; a dash for what wasn't run.

    Raises:
        UserError: the paper doesn't have the data set.
    """
    data, measured = results["data"]["name"], results.get("models", {})
    found = {
        papers_name(model["label"]): measured.get(name, {}).get("test", model["test"])
        for name, model in teachers_in_order(results).items()
    }
    found |= {papers_name(one["label"]): one["test"] for one in results["variants"]}
    lines = [f"| model | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for name in MODELS:
        cells = []
        for metric in COLUMNS:
            printed = paper_value(data, name, metric)
            if printed is None:
                raise UserError(f"paper: found {data}, expected one of {', '.join(TABLE3)}")
            ours = decimals(found[name][metric]) if name in found else MISSING
            cells.append(f"{ours} ({decimals(printed)})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def lists(results: Results, timing: Timing) -> str:
    """What the variants' lists are like."""
    return "\n".join(list_lines(results)).strip()


VIEWS: Mapping[str, Callable[[Results, Timing], str]] = {
    "headline": headline,
    "students": students,
    "models": models,
    "paper": paper,
    "lists": lists,
}
"""What a block `<!-- made of NAME: VIEW -->` shows of a study."""


class _Rival(NamedTuple):
    """A model that the distilled student is compared with.

    Attributes:
        label: the model's name in tables.
        test: the model's test metrics.
        masked: the same with the items of the history taken out, where known.
        tested: the comparison of NDCG@10, where there is one.
        tested_masked: the same with these items taken out.
    """

    label: str
    test: Metrics
    masked: Metrics | None
    tested: Comparison | None
    tested_masked: Comparison | None


def _rivals(results: Results, distilled: VariantResult) -> list[_Rival]:
    """Teachers, untrained models, and the student alone from another start."""
    masked = distilled.get("masked")
    ahead, ahead_masked = ((tests or {}).get("against_models", {}) for tests in (distilled, masked))
    rivals = []
    measured = results.get("models", {})
    for name, model in {**teachers_in_order(results), **results.get("untrained", {})}.items():
        own = measured.get(name, {})
        tested, tested_masked = (one.get(name, {}).get(KEY_METRIC) for one in (ahead, ahead_masked))
        rivals.append(
            _Rival(
                model["label"],
                own.get("test", model["test"]),
                own.get("test_masked"),
                tested,
                tested_masked,
            )
        )
    for one in results["variants"]:
        if one["name"] in distilled.get("against_alone", {}):
            tested, tested_masked = (
                _pair_test(distilled, one, KEY_METRIC, masked=m) for m in (False, True)
            )
            rivals.append(
                _Rival(one["label"], one["test"], one.get("test_masked"), tested, tested_masked)
            )
    return rivals


def _pair_test(
    distilled: VariantResult, alone: VariantResult, metric: str, *, masked: bool
) -> Comparison | None:
    """The one test of the two, whichever is the other's reference; None where none was made."""
    for one, other in ((alone, distilled), (distilled, alone)):
        tests = one.get("masked") if masked else one
        against = (tests or {}).get("against")
        if one["reference"] == other["name"] and against:
            return against[metric]
    tests = distilled.get("masked") if masked else distilled
    return (tests or {}).get("against_alone", {}).get(alone["name"], {}).get(metric)


def _lead(own: Metrics, other: Metrics, metric: str = KEY_METRIC) -> str:
    return percent(own[metric] / other[metric] - 1) if other[metric] else MISSING


def _compared(results: Results) -> _Compared:
    """The variants that are compared.

    Raises:
        UserError: there is no distilled student, or none that learns alone.
    """
    distilled = [one for one in results["variants"] if one["kind"] == "distilled"]
    alone = [one for one in results["variants"] if one["kind"] == "base"]
    if not distilled or not alone:
        raise UserError(
            f"{results['study']['name']}: found no distilled student, or none alone, expected both"
        )
    return _Compared(distilled[0], alone)


def _own_teachers(results: Results, distilled: VariantResult) -> dict[str, TeacherResult]:
    taught = distilled["teacher_weights"] or {}
    return {name: one for name, one in teachers_in_order(results).items() if name in taught}


def _best_teachers(results: Results) -> dict[str, TeacherResult]:
    """Words before its label → the best trained and the best untrained one, by NDCG@10."""
    nothing = results.get("untrained", {})
    trained = {n: one for n, one in results["teachers"].items() if n not in nothing}
    groups = {"the best trained teacher, ": trained.values(), "": nothing.values()}
    return {
        words: max(group, key=lambda one: one["test"][KEY_METRIC])
        for words, group in groups.items()
        if group
    }


def _gain(distilled: VariantResult, plain: VariantResult, metric: str) -> str:
    """Its change, and the p-value."""
    change = _lead(distilled["test"], plain["test"], metric)
    tested = _pair_test(distilled, plain, metric, masked=False)
    return f"{change} ({p_value(tested['t_p_holm'])})" if tested else change


def _masked(results: Results, compared: _Compared) -> str:
    """How far it is ahead where nobody may recommend what a user has."""
    own = compared.distilled.get("test_masked")
    text = f"Means of {seed_count([compared.distilled, *compared.alone])}"
    text += "; the students have seen the validation items before the test" * bool(
        compared.distilled.get("test_before_refit")
    )
    if not own:
        return f"{text}."
    tests = [_pair_test(compared.distilled, one, KEY_METRIC, masked=True) for one in compared.alone]
    rivals = [
        (one["label"], one.get("test_masked"), test)
        for one, test in zip(compared.alone, tests, strict=True)
    ]
    nothing = {model["label"] for model in results.get("untrained", {}).values()}
    known = [one for one in _rivals(results, compared.distilled) if one.label in nothing]
    best = max(known, key=lambda one: one.test[KEY_METRIC], default=None)
    if best is not None:
        rivals.append((best.label, best.masked, best.tested_masked))
    ahead = [
        f"{_lead(own, masked)}{_in_brackets(tested)} against {label}"
        for label, masked, tested in rivals
        if masked
    ]
    return (
        f"{text}. With what a user already has masked for all models, its lead in NDCG@10 is "
        f"{_named(ahead)}."
    )


def _in_brackets(tested: Comparison | None) -> str:
    return f" (p {p_value(tested['t_p_holm'])})" if tested else ""


def _row(
    label: str, test: Metrics, model: TeacherResult | VariantResult, *, bold: bool = False
) -> str:
    cells = [label, *_metric_cells(test), count(model["parameters"] or None)]
    return f"| {' | '.join(f'**{cell}**' if bold else cell for cell in cells)} |"


def _metric_cells(test: Metrics) -> list[str]:
    return [decimals(test[metric]) for metric in KEY_METRICS]


def _pair(test: Metrics | None) -> str:
    return " / ".join(_metric_cells(test)) if test else MISSING


def _tests(found: Comparison | None) -> list[str]:
    if found is None:
        return [MISSING, MISSING]
    return [p_value(found["t_p_holm"]), p_value(found["wilcoxon_p_holm"])]


def _named(several: list[str]) -> str:
    """Words in a row, with an "and" before the last.

    >>> _named(["a", "b", "c"]), _named(["a"])
    ('a, b and c', 'a')
    """
    *most, last = several or [MISSING]
    return f"{', '.join(most)} and {last}" if most else last
