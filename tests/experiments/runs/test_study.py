"""Variants of one configuration: which are run, and what their differences are worth."""

import copy
import dataclasses
import io
import json
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib import image
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from bridge.runtime import RuntimeSettings
from experiments.cli import command
from experiments.cli.command import execute
from experiments.cli.console import Reporter
from experiments.cli.flags import parse
from experiments.cli.options import StudyConfig
from experiments.cli.settings import GROUPS, settings_from
from experiments.commands.study import COMMAND, STUDIES
from experiments.reporting.study_figure import effects_figure, study_figure
from experiments.reporting.tables import markdown
from experiments.reporting.together import together
from experiments.runs import study as study_command
from experiments.runs import train
from experiments.runs.compare import study_results, study_timing
from experiments.runs.finished import FinishedRun
from experiments.runs.plan import plan_runs
from experiments.runs.study import parse_variants, possible
from experiments.runs.variant import Study, Variant, alone, choose_variants
from experiments.stages import starts
from experiments.stages.record import Record, SeedResult
from experiments.studies import ablation, rivals, sources, students
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.synthetic import synthetic_dataset
from prmkd_jax.data.task import Task
from prmkd_jax.distill.config import METHODS
from prmkd_jax.evaluate.metrics import per_user, ranking_metrics
from prmkd_jax.evaluate.significance import holm
from prmkd_jax.students.config import STUDENT_NAMES
from tests.experiments.calls import SMALL, make_call
from tests.experiments.fake_run import fake_results

VARIANTS = [
    Variant(name, name.upper(), (f"--method={name}",), reference)
    for name, reference in (("prmkd", None), ("rd", "prmkd"), ("average", "prmkd"))
]


def settings(*flags):
    return settings_from(parse(["--flagfile=demo.cfg", *flags], GROUPS).configs)


def finished(ranks) -> FinishedRun:
    """A run of two seeds with these test ranks; its first epoch compiles."""
    results = []
    for seed, row in enumerate(ranks):
        metrics = ranking_metrics(row)
        results.append(SeedResult(seed, metrics, metrics, metrics, 3 + seed, 4, None, []))
    record = Record(
        identity={},
        student={"name": "sasrec", "label": "SASRec"},
        method={"name": "prmkd", "label": "PRM-KD"},
        data={},
        split={},
        environment={},
        settings={},
        teachers={},
        teacher_weights={},
        parameters=100,
        seeds=tuple(results),
    )
    epochs = [{"train": train, "evaluate": 0.5} for train in (4.0, 1, 1, 2)]
    return FinishedRun(record, ranks, {0: epochs, 1: epochs}, {})


@pytest.fixture(scope="module")
def runs():
    """Two seeds each; `rd` ranks everyone worse than PRM-KD, `average` as well as it."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 12, size=(2, 60)).astype(float)
    worse = base + rng.integers(0, 12, size=(2, 60))
    other = base + rng.integers(-1, 2, size=(2, 60)).clip(-base)
    return dict(zip(VARIANTS, map(finished, (base, worse, other)), strict=True))


@pytest.fixture(scope="module")
def results(runs):
    flags = {"dataset": "Scientific", "seeds": [0, 1], "teachers": []}
    return study_results(Study("rivals", "Rivals", "PRM-KD", lambda _: []), runs, {}, flags)


@pytest.fixture(scope="module")
def timing(runs):
    return study_timing(runs, {})


def test_users_are_paired_after_averaging_over_seeds_and_corrected_together(runs, results):
    """Users' means over the seeds are tested, with Holm's correction over the variants."""
    means = {
        variant.name: per_user(run.ranks, "NDCG@10").mean(axis=0) for variant, run in runs.items()
    }
    p = [stats.ttest_rel(means[name], means["prmkd"]).pvalue for name in ("rd", "average")]
    reference, *others = results["variants"]
    assert reference["against"] is None
    found = [row["against"]["NDCG@10"] for row in others]
    np.testing.assert_allclose([one["t_p"] for one in found], p, rtol=1e-9)
    np.testing.assert_allclose([one["t_p_holm"] for one in found], holm(p), rtol=1e-9)
    assert found[0]["t_p_holm"] == pytest.approx(2 * p[0])
    change = means["rd"].mean() / means["prmkd"].mean() - 1
    assert found[0]["change"] == pytest.approx(change)
    assert others[0]["best_epoch"] == 3.5
    assert [result["seed"] for result in others[0]["seeds"]] == [0, 1]
    json.dumps(results, allow_nan=False)


def test_every_variant_is_compared_with_every_model_that_no_seed_trains(runs):
    """Each metric's p-values have Holm's correction over all variants and models together."""
    rng = np.random.default_rng(1)
    models = {name: rng.integers(0, 40, 60).astype(float) for name in ("unisrec", "popularity")}
    flags = {"dataset": "Scientific", "seeds": [0, 1], "teachers": ["unisrec"]}
    study = Study("rivals", "Rivals", "PRM-KD", lambda _: [])
    results = study_results(study, runs, {}, flags, models)
    json.dumps(results, allow_nan=False)
    for metric in ("Recall@10", "NDCG@10"):
        found, t, wilcoxon = [], [], []
        for row, run in zip(results["variants"], runs.values(), strict=True):
            after = per_user(run.ranks, metric).mean(axis=0)
            assert set(row["against_models"]) == set(models)
            for name, ranks in models.items():
                before = per_user(ranks, metric)
                found.append(row["against_models"][name][metric])
                assert found[-1]["change"] == pytest.approx(after.mean() / before.mean() - 1)
                t.append(stats.ttest_rel(after, before).pvalue)
                wilcoxon.append(stats.wilcoxon(np.round(after - before, 12)).pvalue)
        for key, expected in (("t_p", t), ("wilcoxon_p", wilcoxon)):
            np.testing.assert_allclose([one[key] for one in found], expected, rtol=1e-9)
            corrected = [one[f"{key}_holm"] for one in found]
            np.testing.assert_allclose(corrected, holm(expected), rtol=1e-9)
    bare = study_results(study, runs, {}, flags)
    assert [row.pop("against_models") for row in bare["variants"]] == [{}] * 3
    for row in results["variants"]:
        del row["against_models"]
    assert bare == results


def test_a_distilled_student_is_compared_with_its_student_from_another_start():
    """Only the distilled student has this test, and its p-value is corrected by itself."""
    named = {"base": "sasrec", "from-texts": "sasrec", "gru": "gru4rec", "mine": "sasrec"}
    named["wide"] = "sasrec"
    kinds = {name: "distilled" if name == "mine" else "base" for name in named}
    references = {"from-texts": "base", "mine": "base"}
    rng = np.random.default_rng(0)
    runs = {
        Variant(name, name.upper(), (), references.get(name), kinds[name]): finished(
            rng.integers(0, 20, size=(2, 60)).astype(float)
        )
        for name in named
    }
    for variant, run in runs.items():
        cast("dict[str, str]", run.record.student)["name"] = named[variant.name]
        start = "random" if variant.name in ("base", "mine", "wide") else "text"
        cast("dict[str, str]", run.record.settings)["item_init"] = start
    study = Study("table3", "Table", "the base", lambda _: [])
    flags = {"dataset": "Scientific", "seeds": [0, 1], "teachers": []}
    results = study_results(study, runs, {}, flags)
    base, texts, other, mine, wide = results["variants"]
    assert [row["against_alone"] for row in (base, texts, other, wide)] == [{}, {}, {}, {}]
    assert set(mine["against_alone"]) == {"from-texts"}
    found = mine["against_alone"]["from-texts"]["NDCG@10"]
    before, after = (
        per_user(run.ranks, "NDCG@10").mean(axis=0)
        for variant, run in runs.items()
        if variant.name in ("from-texts", "mine")
    )
    p = stats.ttest_rel(after, before).pvalue
    assert found["t_p"] == pytest.approx(p, rel=1e-9)
    assert found["t_p_holm"] == found["t_p"]
    assert found["change"] == pytest.approx(after.mean() / before.mean() - 1)


def test_differences_are_tested_with_seen_items_masked_too(runs, results):
    """Each protocol has its own p-values; a run without masked ranks has no masked tests."""
    assert [row["masked"] for row in results["variants"]] == [None] * 3
    rng = np.random.default_rng(2)
    masked = {
        variant: dataclasses.replace(
            run, masked=np.where(rng.random((2, 60)) < 0.1, np.inf, rng.integers(0, 30, (2, 60)))
        )
        for variant, run in runs.items()
    }
    flags = {"dataset": "Scientific", "seeds": [0, 1], "teachers": ["unisrec"]}
    study = Study("rivals", "Rivals", "PRM-KD", lambda _: [])
    ranks = {"unisrec": rng.integers(0, 40, 60).astype(float)}
    model = {"unisrec": np.where(rng.random(60) < 0.1, np.inf, ranks["unisrec"])}
    found = study_results(study, masked, {}, flags, ranks, model)
    json.dumps(found, allow_nan=False)
    means = {
        variant.name: per_user(run.masked, "NDCG@10").mean(axis=0)
        for variant, run in masked.items()
    }
    reference, *others = found["variants"]
    assert reference["masked"]["against"] is None
    p = [stats.ttest_rel(means[name], means["prmkd"]).pvalue for name in ("rd", "average")]
    tests = [row["masked"]["against"]["NDCG@10"] for row in others]
    np.testing.assert_allclose([one["t_p_holm"] for one in tests], holm(p), rtol=1e-9)
    against = reference["masked"]["against_models"]["unisrec"]["NDCG@10"]
    before = per_user(model["unisrec"], "NDCG@10")
    assert against["change"] == pytest.approx(means["prmkd"].mean() / before.mean() - 1)
    assert against["t_p"] == pytest.approx(stats.ttest_rel(means["prmkd"], before).pvalue)
    for row, given in zip(found["variants"], results["variants"], strict=True):
        assert row["against"] == given["against"]
    # One run of before: it is compared with none in this protocol, and the others with each other.
    last = list(masked)[-1]
    masked[last] = runs[last]
    mixed = study_results(study, masked, {}, flags, ranks, model)
    assert mixed["variants"][-1]["masked"] is None
    assert mixed["variants"][1]["masked"]["against"]["NDCG@10"]["t_p"] == pytest.approx(p[0])


def test_the_models_that_variants_are_compared_with_have_tables(results, timing):
    """A cell has the change and both p-values of its model; untested models have no column."""
    copied = copy.deepcopy(results)
    model = {"label": "UniSRec", "validation": {"NDCG@10": 0.1}, "test": {"NDCG@10": 0.1}}
    model["test"]["Recall@10"] = 0.2
    copied["teachers"] = {"unisrec": model}
    copied["untrained"] = {"popularity": {**model, "label": "Popularity"}}
    assert "against each teacher" not in markdown(copied, timing)
    tests = copied["variants"][1]["against"]
    shown = {
        **tests,
        "NDCG@10": {"change": 0.279, "t_p_holm": 3e-40, "wilcoxon_p_holm": 0.02},
        "Recall@10": {"change": -0.05, "t_p_holm": 0.2, "wilcoxon_p_holm": 1.0},
    }
    copied["variants"][1]["against_models"] = {"unisrec": shown}
    lines = markdown(copied, timing).splitlines()
    first = lines.index("| variant | UniSRec |")
    assert lines[first - 2].startswith("Change of NDCG@10 against each teacher")
    assert lines[first + 2 : first + 5] == [
        "| PRMKD | – |",
        "| RD | +27.9 % (3e-40 / 0.02) |",
        "| AVERAGE | – |",
    ]
    assert "| RD | -5.0 % (0.2 / 1) |" in lines[first + 5 :]


def test_seconds_are_those_of_an_epoch_and_until_the_best(runs, timing):
    """Compilation isn't in an epoch's time, and the patience isn't in the time to the best."""
    assert timing["variants"]["rd"] == {
        "train_seconds": 8.0,
        "seconds_per_epoch": 1.0,
        "seconds_per_validation": 0.5,
        "seconds_to_best": 7.0,
    }
    without = dataclasses.replace(runs[VARIANTS[1]], seconds={0: []})
    assert study_timing({VARIANTS[1]: without}, {})["variants"]["rd"] is None


def test_one_seed_has_no_spread(runs):
    """With one seed `test_std` is None, not 0."""
    one = {
        variant: dataclasses.replace(run, record=run.record.of_seeds([0]), ranks=run.ranks[:1])
        for variant, run in runs.items()
    }
    flags = {"dataset": "Scientific", "seeds": [0], "teachers": []}
    study = Study("rivals", "Rivals", "PRM-KD", lambda _: [])
    for variant in study_results(study, one, {}, flags)["variants"]:
        assert variant["test_std"] is None


def test_table_and_figure_show_every_variant(results, timing):
    """The reference isn't compared with itself, and times that are unknown are dashes."""
    known = {**timing["variants"], "average": None}
    lines = markdown(results, {"variants": known}).splitlines()
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| PRMKD", "| RD", "| AVERAGE"]
    assert "|  |  |  |" in lines[4]
    assert lines[5].endswith(" | 4 | 1.00 s | 7.00 s | 100 |")
    assert lines[6].endswith(" | 4 | – | – | 100 |")
    assert "SASRec on Scientific" in lines[0]
    assert "p-values against PRM-KD" in lines[0]
    assert "mean of 2 seeds" in lines[0]
    drawn = study_figure(results).svg()
    for row in results["variants"]:
        assert row["label"] in drawn
        assert f"{row['test']['NDCG@10']:.4f}" in drawn


def test_changes_have_intervals_and_a_figure(results, tmp_path):
    """A change lies inside its interval, and the reference has no row in the figure."""
    worse = results["variants"][1]["against"]["NDCG@10"]
    low, high = worse["interval"]
    assert low < worse["change"] < high < 0
    drawn = effects_figure(results)
    svg = drawn.svg()
    assert "change of NDCG@10 against PRM-KD, %" in svg
    assert "RD" in svg
    assert "PRMKD" not in svg
    drawn.save(tmp_path / "rivals_effects")
    assert (tmp_path / "rivals_effects.svg").read_text() == svg
    assert (tmp_path / "rivals_effects.png").read_bytes()[1:4] == b"PNG"
    assert drawn.png() == drawn.png()
    alone = {**results, "variants": results["variants"][:1]}
    assert "nothing is compared" in effects_figure(alone).svg()


def test_a_change_from_nothing_is_no_point_at_zero(results):
    """A change of None has no point in the figure."""
    copied = copy.deepcopy(results)
    copied["variants"][1]["against"]["NDCG@10"] |= {"change": None, "interval": None}
    axes = Figure().subplots()
    effects_figure(copied).draw(axes)
    points = [line for line in axes.lines if line.get_marker() == "o"]
    change = copied["variants"][2]["against"]["NDCG@10"]["change"]
    assert [list(point.get_xydata()[0]) for point in points] == [[100 * change, 1]]


@pytest.mark.parametrize("figure", [study_figure, effects_figure])
def test_no_words_of_a_figure_are_cut_off(results, figure):
    """With long names of variants the edges of the figure are still white."""
    copied = copy.deepcopy(results)
    for row in copied["variants"]:
        row["label"] = f"{row['label']} (BERT4Rec from texts)"
    pixels = image.imread(io.BytesIO(figure(copied).png()))[..., :3]
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    assert all((edge == 1).all() for edge in edges)


def test_lists_have_a_table_of_their_own(results):
    """Values that were not measured are dashes, and without any there is no table."""
    assert "Lists of ten" not in markdown(results, {})
    copied = copy.deepcopy(results)
    copied["variants"][1]["lists"] = {"coverage": 0.25, "gini": 0.5, "diversity": None}
    copied["variants"][0]["test"]["MRR"], copied["variants"][1]["test"]["MRR"] = 0.03125, 0.0625
    lines = markdown(copied, {}).splitlines()
    assert lines[-2] == "| RD | 0.0625 | 0.250 | 0.500 | – | – | – | – | – |"
    assert lines[-3] == "| PRMKD | 0.0312 | – | – | – | – | – | – | – |"


def test_lists_are_means_over_seeds_together_and_by_segment(runs):
    """Of a run with a seed that an earlier version left nothing is known by segment."""
    flags = {"dataset": "Scientific", "seeds": [0, 1], "teachers": []}
    study = Study("rivals", "Rivals", "PRM-KD", lambda _: [])
    known = [
        {"lists": {"gini": gini, "diversity": None}, "segment_lists": {"target": {"0": segment}}}
        for gini, segment in ((0.25, {"tail": 0.5}), (0.75, {"tail": 0.0}))
    ]

    def described(*added) -> dict:
        found = {}
        for variant, run in runs.items():
            seeds = zip(run.record.seeds, added, strict=True)
            record = dataclasses.replace(
                run.record, seeds=tuple(dataclasses.replace(seed, **more) for seed, more in seeds)
            )
            found[variant] = dataclasses.replace(run, record=record)
        return study_results(study, found, {}, flags)["variants"][1]

    both = described(*known)
    assert both["lists"] == {"gini": 0.5, "diversity": None}
    assert both["segment_lists"] == {"target": {"0": {"tail": 0.25}}}
    mixed = described(known[0], {"lists": known[1]["lists"]})
    assert mixed["lists"] == both["lists"]
    assert mixed["segment_lists"] is None


def test_figure_says_what_a_hollow_bar_is(results):
    """The legend explains hollow bars only if there are some."""
    for p, told in ((0.2, True), (0.01, False)):
        copied = copy.deepcopy(results)
        for row in copied["variants"][1:]:
            row["against"]["NDCG@10"]["t_p_holm"] = p
        assert ("hollow: p ≥ 0.05 against PRM-KD" in study_figure(copied).svg()) is told


def test_every_student_is_compared_with_itself():
    """A student's plain, text and distilled variants share all other settings."""
    variants = students.list_variants(settings())
    names = [each.name.removesuffix("-base") for each in variants[::3]]
    assert names == [name for name in STUDENT_NAMES if name != "recguru"]
    rows = zip(variants[::3], variants[1::3], variants[2::3], strict=True)
    for base, text, prmkd in rows:
        assert (base.reference, text.reference, prmkd.reference) == (None, base.name, base.name)
        alone, taught = settings(*base.flags), settings("--student=fm", *prmkd.flags)
        assert alone.student == taught.student
        begun = settings(*text.flags)
        assert begun.student == dataclasses.replace(alone.student, item_init="text")
        assert (alone.run.teachers, begun.run.teachers) == ((), ())
        assert alone.train == begun.train == taught.train
        assert (taught.run.teachers, taught.distill.method) == (settings().run.teachers, "prmkd")
    (one, other) = choose_variants(variants, StudyConfig(variants=("fm-prmkd",)))
    assert (one.name, other.name) == ("fm-base", "fm-prmkd")


def test_the_reference_always_runs_and_single_variants_take_flags():
    """Choosing one variant adds its reference, and flags reach the named variant only."""
    study = StudyConfig(variants=("rd",), variant_flags="rd: distill_weight=2 temperature=5")
    chosen = choose_variants(VARIANTS, study)
    assert [variant.name for variant in chosen] == ["prmkd", "rd"]
    assert chosen[0].flags == ("--method=prmkd",)
    assert chosen[1].flags == ("--method=rd", "--distill_weight=2", "--temperature=5")
    assert choose_variants(VARIANTS, StudyConfig()) == VARIANTS


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"variants": ("rd", "dr")}, "--variants: found 'dr', expected some of prmkd, rd, average"),
        ({"variant_flags": "dr: a=1"}, "--variant_flags: found 'dr: a=1', expected name: flag="),
        ({"variant_flags": "rd a=1"}, "--variant_flags: found 'rd a=1', expected name: flag="),
        ({"variant_flags": "rd: a"}, "--variant_flags: found 'rd: a', expected name: flag="),
    ],
)
def test_misspelt_variants_are_refused(study, message):
    """The message shows what was found and what is expected."""
    with pytest.raises(UserError) as error:
        choose_variants(VARIANTS, StudyConfig(**study))
    assert str(error.value).startswith(message)


def test_rivals_are_all_methods_once():
    """Every method has one row; `average` and `weighted` are settings of PRM-KD."""
    variants = rivals.list_variants(settings())
    found = {each.name: settings(*each.flags).distill for each in variants}
    assert variants[0].flags == ("--teachers=",)
    methods = [found[each.name].method for each in variants]
    assert set(METHODS) - {"average", "weighted"} == set(methods)
    assert len(variants) == 12
    assert settings(*variants[1].flags).student.item_init == "text"
    for name, distill in found.items():
        assert distill.method in ("prmkd", name)
    # PRM-KD without a part of it needs no method of its own.
    assert found["average"].teacher_weights == "uniform"
    assert found["weighted"].teacher_weights == "validation"
    assert [found[name].consistency_quantile for name in ("average", "weighted")] == [1, 1]


@pytest.mark.parametrize("topic", STUDIES)
def test_rows_that_say_nothing_else_are_of_prmkd(topic):
    """A --method in the call doesn't change the method of any row."""
    call, _ = make_call(COMMAND, ["--flagfile=demo.cfg", "--method=rd"], topic)
    for variant, configs in parse_variants(call).items():
        method = settings_from(configs).distill.method
        assert method == (variant.name if variant.name in METHODS else "prmkd")


def test_ablations_take_away_what_their_names_say():
    """`without_X` has every teacher but X, and `only_X` has X alone."""
    variants = {one.name: settings(*one.flags) for one in ablation.list_variants(settings())}
    teachers = settings().run.teachers
    assert len(teachers) == 3
    for one in teachers:
        assert variants[f"only_{one}"].run.teachers == (one,)
        others = tuple(other for other in teachers if other != one)
        assert variants[f"without_{one}"].run.teachers == others
    assert variants["base"].run.teachers == ()
    assert variants["without_in"].distill.negatives == "catalogue"
    averaged = variants["without_wa"].distill
    assert (averaged.teacher_weights, averaged.consistency_quantile) == ("uniform", 1)
    assert averaged.consistency_threshold is None
    assert len(variants) == 11


def test_sources_are_added_in_turn_and_left_out_alone():
    """No row repeats another, and none is without a source."""
    given = ("--negatives=closed", "--seen_items=unwanted", "--teacher_weights=1,2,3")
    given = (*given, "--teachers=unisrec,neighbours,unim2rec")

    def found(*flags):
        every = sources.list_variants(settings(*flags))
        values = {one.name: settings(*flags, *one.flags) for one in every if one.kind != "base"}
        return {
            name: (
                ",".join(each.run.teachers),
                each.distill.teacher_weights,
                each.distill.negatives,
                each.distill.seen_items,
            )
            for name, each in values.items()
        }

    both, trained, closed, new = (
        "unisrec,neighbours,unim2rec",
        "unisrec,unim2rec",
        "closed",
        "unwanted",
    )
    assert found(*given) == {
        "prmkd": (both, "1,2,3", closed, new),
        "plus_teachers": (trained, "1.0,3.0", "in_batch", "out"),
        "plus_untrained": (both, "1.0,2.0,3.0", "in_batch", "out"),
        "plus_columns": (both, "1.0,2.0,3.0", closed, "out"),
        "without_teachers": ("neighbours", "2.0", closed, new),
        "without_untrained": (trained, "1.0,3.0", closed, new),
        "without_columns": (both, "1.0,2.0,3.0", "in_batch", new),
    }
    assert set(found("--teachers=unisrec")) == {"prmkd"}
    begun = ("--item_init=text:0.2", "--teachers=unisrec,neighbours")
    assert set(found(*begun)) == {
        "prmkd",
        "plus_teachers",
        "without_start",
        "without_teachers",
    }
    names = ("prmkd", "plus_teachers", "without_start")
    flags = {one.name: one.flags for one in sources.list_variants(settings(*begun))}
    starts = [settings(*begun, *flags[name]).student.item_init for name in names]
    assert starts == ["text:0.2", "text:0.2", "random"]
    two = found("--teachers=unisrec", "--negatives=catalogue")
    assert set(two) == {"prmkd", "plus_teachers"}
    assert set(found("--teachers=unisrec,neighbours")) == {
        "prmkd",
        "plus_teachers",
        "without_teachers",
    }


@pytest.mark.parametrize(
    ("init", "base", "other", "name"),
    [
        ("random", "random", "text", "base-text"),
        ("text:0.3", "text:0.3", "random", "base-random"),
        ("teachers", "random", "text", "base-text"),
    ],
)
def test_the_student_alone_is_there_from_either_start(init, base, other, name):
    """Whatever --item_init says, one begins from a random table and another from texts."""
    study = settings(f"--item_init={init}")
    for variants in (rivals.list_variants(study), ablation.list_variants(study)):
        found = {one.name: one for one in variants}
        inits = [
            settings(f"--item_init={init}", *found[one].flags).student.item_init
            for one in ("base", name)
        ]
        assert inits == [base, other]
        assert found[name].needs_texts is (other == "text")
    assert train.list_variants(study)[0].flags[1:] == alone(study)[1:]
    assert settings(f"--item_init={init}", *alone(study)).student.item_init == base


def test_trained_weights_have_no_other_start():
    """With --init the plain students from another start are left out."""
    study = settings("--init=student=somewhere")
    for variants in (rivals.list_variants(study), ablation.list_variants(study)):
        assert not any(one.name.startswith("base-") for one in variants)


def test_a_variant_that_needs_texts_is_left_out_where_there_are_none(tmp_path):
    """One line says that it is left out, and variants that read no texts stay."""
    configs = parse([*SMALL, "--teachers=", f"--cache_dir={tmp_path}"], GROUPS).configs
    (plan,) = plan_runs([configs])
    empty = dict.fromkeys(plan.task.dataset.catalogue.texts, ("",) * 30)
    catalogue = dataclasses.replace(plan.task.dataset.catalogue, texts=empty)
    bare = Task(dataclasses.replace(plan.task.dataset, catalogue=catalogue), plan.task.split)
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, width=99))
    for task, needs, expected in (
        (plan.task, True, True),
        (bare, False, True),
        (bare, True, False),
    ):
        variant = VARIANTS[0]._replace(label="A rival", needs_texts=needs)
        assert possible(variant, dataclasses.replace(plan, task=task), reporter) is expected
    assert stream.getvalue() == "A rival: left out, synthetic-home has no texts\n"


def small_data_set(folder, title: str) -> None:
    """Twelve users who each take five of eight items, all with one title and their number."""
    folder.mkdir(parents=True)
    pairs = [(user, (user + step) % 8, step) for user in range(12) for step in range(5)]
    users, items, steps = zip(*pairs, strict=True)
    rows = {
        "user_id": [f"u{user}" for user in users],
        "item_id": [f"i{item}" for item in items],
        "timestamp": pa.array(steps, pa.int64()),
    }
    pq.write_table(pa.table(rows), folder / "interactions.parquet")
    titles = [title and f"{title} {item}" for item in range(8)]
    empty = {field: [""] * 8 for field in ("brand", "categories")}
    names = [f"i{item}" for item in range(8)]
    catalogue = {"item_id": names, "title": titles, **empty}
    pq.write_table(pa.table(catalogue), folder / "items.parquet")


@pytest.fixture
def two_sets(tmp_path, monkeypatch):
    """A call of table3 for a data set with texts and one without; what it would train is noted."""
    trained = []
    monkeypatch.setattr(study_command, "carry_out", lambda call, one, *_: trained.append(one.name))
    monkeypatch.setattr(study_command, "write_together", lambda *_: None)
    small_data_set(tmp_path / "data" / "A", "thing")
    small_data_set(tmp_path / "data" / "B", "")
    argv = [*SMALL, "--datasets=A,B", "--teachers=popularity", f"--data_dir={tmp_path / 'data'}"]
    argv += ["--variants=base,base-text,prmkd", f"--output_dir={tmp_path / 'out'}"]
    argv.append(f"--cache_dir={tmp_path / 'cache'}")
    # No encoder is loaded.
    monkeypatch.setattr(starts, "TEXTS", starts.TEXTS._replace(widths=lambda *_: {}))
    return make_call(COMMAND, argv, "table3")[0], trained, tmp_path / "out"


def test_of_several_data_sets_one_may_have_no_texts(two_sets):
    """Both data sets are trained, although a rival of one needs texts."""
    call, trained, _ = two_sets
    study_command.run(call)
    assert trained == ["table3-A", "table3-B"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("table3-B.md", "notes", "that no run listed as its own"),
        ("table3.md", "The main comparison: SASRec on A, test part, mean of 1 seed", "no table of"),
    ],
)
def test_what_is_in_the_way_of_several_data_sets_is_told_first(two_sets, name, content, message):
    """Nothing is trained, and the file in the way stays as it was."""
    call, trained, output = two_sets
    output.mkdir()
    (output / name).write_text(content)
    with pytest.raises(UserError, match=message):
        study_command.run(call)
    assert not trained
    assert (output / name).read_text() == content


def test_the_table_of_several_data_sets_is_made_again(two_sets):
    """An earlier table of the same study doesn't stop the training."""
    call, trained, output = two_sets
    output.mkdir()
    several = {"A": fake_results(), "B": fake_results()}
    (output / "table3.md").write_text(together("The main comparison", several))
    study_command.run(call)
    assert len(trained) == 2


def test_fewer_teachers_keep_their_own_numbers():
    """Of weights 1,0,3 the last two keep 0 and 3 when the first teacher is left out."""
    given = "--teacher_weights=1,0,3"
    variants = ablation.list_variants(settings(given))
    found = {one.name: settings(given, *one.flags).distill.teacher_weights for one in variants}
    names = settings().run.teachers
    assert found[f"without_{names[0]}"] == "0.0,3.0"
    assert found[f"only_{names[2]}"] == "3.0"
    assert found[f"only_{names[1]}"] == "uniform"
    two = [one.name for one in ablation.list_variants(settings("--teachers=unisrec,unim2rec"))]
    assert not any(name.startswith("without_u") for name in two)


def test_the_command_leaves_its_files(tmp_path, monkeypatch):
    """The tables, the page, the figures, the times and the finished runs are all there.

    `tests/test_imports.py` checks that no command loads jax before memory is settled.
    """
    monkeypatch.setattr(command, "settle", lambda **_: RuntimeSettings({}, {}, False))
    data = parse(["--synthetic_users=40", "--synthetic_items=30"], GROUPS).configs[DataConfig]
    world, rng = synthetic_dataset(data), np.random.default_rng(0)
    sizes = {"instances": len(world.interactions.items), "items": world.num_items}
    for name, rows in sizes.items():
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(rows, 4)).astype(np.float32))
    words = ["rivals", "--flagfile=demo.cfg", "--seeds=0"]
    words += ["--synthetic_users=40", "--synthetic_items=30", "--hidden_size=8"]
    words += ["--inner_size=8", "--batch_size=64", "--max_seq_len=8", "--max_epochs=1"]
    words += ["--teachers=precomputed", f"--precomputed_folder={tmp_path}", "--variants=base"]
    folders = {"cache_dir": "cache", "output_dir": "out"}
    words += [f"--{flag}={tmp_path / folder}" for flag, folder in folders.items()]
    execute(COMMAND, words, "study")
    table = (tmp_path / "out" / "rivals.md").read_text()
    assert "| SASRec | " in table
    assert "| PRM-KD | " in table
    for name in ("rivals.svg", "rivals.png", "rivals_effects.svg", "rivals_effects.png"):
        assert (tmp_path / "out" / name).is_file()
    assert "Lists of ten" in table
    assert "PRM-KD, its rivals and its controls" in (tmp_path / "out" / "rivals.html").read_text()
    assert len(list((tmp_path / "finished").iterdir())) == 2
    rows = json.loads((tmp_path / "out" / "rivals.json").read_text())["variants"]
    assert [row["reference"] for row in rows] == ["prmkd", None]
    timing = json.loads((tmp_path / "out" / "rivals_timing.json").read_text())
    assert timing["variants"]["base"]["seconds_to_best"] > 0
    for row in rows:
        assert 0 < row["lists"]["coverage"] <= 1
        assert row["lists"] == pytest.approx(row["seeds"][0]["lists"])
        assert set(row["segment_lists"]) == {"target", "history"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--variants=dr"], "--variants: found 'dr', expected some of base, base-text, prmkd,"),
        (["--teachers="], "--teachers: found none, expected at least one"),
        (["--variant_flags=rd: max_epochs=0"], "--max_epochs: found '0', expected a whole number"),
    ],
)
def test_mistakes_are_told_before_anything_is_run(flags, message, monkeypatch):
    """The message names the flag, what was found and what is expected."""
    monkeypatch.setattr(command, "settle", lambda **_: RuntimeSettings({}, {}, False))
    with pytest.raises(UserError) as error:
        execute(COMMAND, ["rivals", "--flagfile=demo.cfg", *flags], "study")
    assert str(error.value).startswith(message)
