"""Studies of the paper's tables and figures: what they list, and those that train nothing."""

import copy
import dataclasses
import json
import re

import numpy as np
import pytest

from experiments.cli.command import Call
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.commands.study import COMMAND
from experiments.reporting.curves import SIGNS, curve
from experiments.reporting.list_table import LISTS
from experiments.reporting.paper import MODELS, TABLE2, TABLE3, impossible_steps
from experiments.reporting.together import together
from experiments.runs import cold_start, efficiency, study, table2
from experiments.runs.several import each_data_set
from experiments.runs.study import variations
from experiments.runs.views import TRAIN_FILES, find_studies, study_files
from experiments.stages.data import load_task
from experiments.studies import curriculum, sensitivity, table3, temporal
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import write_sealed_json
from prmkd_jax.data.task import Task, make_task
from prmkd_jax.evaluate.metrics import per_user, ranking_metrics
from tests.experiments.calls import SMALL, make_call
from tests.experiments.fake_run import fake_results, fake_timing
from tests.worlds import random_world

TASK = make_task(random_world(users=200, items=40))


def settings(*flags):
    return settings_from(parse(["--flagfile=demo.cfg", *flags], GROUPS).configs)


def test_the_papers_table_has_the_faults_that_we_name():
    """Ranks can't give the values of 22 of the 40 blocks, four of them PRM-KD's."""
    blocks = {
        (data, model): {metric: values[place] for metric, values in metrics.items()}
        for data, metrics in TABLE3.items()
        for place, model in enumerate(MODELS)
    }
    found = [place for place, metrics in blocks.items() if impossible_steps(metrics)]
    assert len(blocks) == 40
    assert len(found) == 22
    assert sum(model == "PRM-KD" for _, model in found) == 4
    assert not any(model == "GRU4Rec" for _, model in found)
    ranks = np.random.default_rng(0).integers(0, 60, 500).astype(float)
    assert impossible_steps(ranking_metrics(ranks)) == []


def test_table2_marks_what_agrees_and_says_why_not():
    """A difference from rounding agrees; one that doesn't agree has a reason."""
    users, items, interactions, average, sparsity = TABLE2["Arts"]
    equal = {
        "users": users,
        "items": items,
        "interactions": interactions,
        "average_length": average + 0.004,
        "sparsity": sparsity / 100 - 4e-5,
    }
    assert set(table2.row("Arts", equal)["same"].values()) == {True}
    other = table2.row("Arts", {**equal, "users": users - 1, "average_length": average + 0.006})
    assert other["same"] == {
        "users": False,
        "items": True,
        "interactions": True,
        "average_length": False,
        "sparsity": True,
    }
    assert other["why"]
    found = table2.find({"Arts": equal, "Mine": {**equal, "fingerprint": "x"}})
    lines = found.markdown.splitlines()
    assert lines[4].startswith("| Arts | 45,486 (45,486 ✓) | 21,019 (21,019 ✓)")
    assert lines[5].startswith("| Mine | 45,486 | 21,019 | 395,150 |")
    assert found.content["missing"] == ["Instruments", "Toys", "Scientific", "Games"]
    assert "Toys: average length 8.34, from its counts 8.89" in found.markdown
    assert "395 k" in found.sketches["table2"].svg()
    json.dumps(found.content, allow_nan=False)


def test_table2_is_written_once_and_shown_again(tmp_path):
    """A finished study is shown without changing its files; other settings are refused."""
    argv = ["--synthetic_users=30", "--synthetic_items=20", "--datasets=synthetic"]
    argv += [f"--output_dir={tmp_path}"]
    call, stream = make_call(COMMAND, argv, "table2")
    table2.run(call)
    assert "| synthetic | 30 |" in stream.getvalue()
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {"table2.json", "table2.md", "table2.svg", "table2.png"} < set(files)
    call, stream = make_call(COMMAND, argv, "table2")
    table2.run(call)
    assert "this study is finished" in stream.getvalue()
    assert "| synthetic | 30 |" in stream.getvalue()
    assert files == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    call, _ = make_call(COMMAND, [*argv, "--synthetic_users=31"], "table2")
    with pytest.raises(UserError, match="or replace that run with --overwrite"):
        table2.run(call)
    call, _ = make_call(COMMAND, [f"--data_dir={tmp_path}", f"--output_dir={tmp_path}"], "table2")
    with pytest.raises(UserError, match="--data_dir: found no data set in"):
        table2.run(call)


def made_results(base: np.ndarray, other: np.ndarray, task: Task = TASK) -> tuple[dict, dict]:
    results = fake_results()
    results["data"] |= {"name": "random", "fingerprint": task.dataset.fingerprint}
    results["split"]["digest"] = task.split_digest
    for variant, ranks in zip(results["variants"], (base, other), strict=True):
        variant["seeds"] = [{"seed": seed} for seed in range(len(ranks))]
    names = [variant["name"] for variant in results["variants"]]
    return results, {
        f"{name}-seed{seed}": row
        for name, ranks in zip(names, (base, other), strict=True)
        for seed, row in enumerate(ranks)
    }


def test_gains_are_of_the_segments_instances_and_of_seeds_by_their_numbers():
    """A segment's gain is the mean over its instances; popularity counts training only."""
    rng = np.random.default_rng(0)
    count = len(TASK.split.test)
    base = rng.integers(0, 30, (2, count)).astype(float)
    other = rng.integers(0, 20, (3, count)).astype(float)
    results, ranks = made_results(base, other)
    rows = cold_start.study_rows(results, ranks, cold_start.kinds_of(TASK))
    assert {row["kind"] for row in rows} == {"all", "target", "history"}
    interactions = TASK.dataset.interactions
    for row in rows:
        inside = []
        for place, instance in enumerate(TASK.split.test):
            user = interactions.users[instance]
            target = interactions.items[instance]
            trained = sum(
                int((interactions.items[first:end] == target).sum())
                for first, end in zip(interactions.indptr[:-1], TASK.split.train_end, strict=True)
            )
            counts = {
                "all": 0,
                "target": trained,
                "history": int(instance - interactions.indptr[user]),
            }
            low, _, high = row["segment"].partition("–")
            if row["kind"] == "all" or int(low) <= counts[row["kind"]] <= int(high or low):
                inside.append(place)
        assert row["instances"] == len(inside)
        expected = per_user(other[:, inside], row["metric"]).mean()
        assert row["other"] == pytest.approx(expected, rel=1e-12)
        assert row["base"] == pytest.approx(per_user(base[:, inside], row["metric"]).mean())
    table = cold_start.markdown("random", rows)
    assert "**PRM-KD (SASRec)** against SASRec (train)" in table
    assert table.count("\n| ") == len(rows) + 1
    drawn = cold_start.sketch(rows)
    assert "difference of NDCG@10" in drawn.svg()
    assert "PRM-KD (SASRec) against SASRec, by segments: all " in drawn.alt


def test_lists_are_shown_for_each_segment_where_they_were_measured():
    """A row a segment with its own figures; a run of an earlier version has none."""
    kinds = cold_start.kinds_of(TASK)
    results = fake_results()
    assert cold_start.list_rows(results, kinds) == []
    assert cold_start.list_markdown([]) == ""
    distilled = results["variants"][1]
    figures = dict.fromkeys(LISTS, 0.5)
    distilled["lists"] = {**figures, "gini": 0.75}
    distilled["segment_lists"] = {
        kind: {segment.name: {**figures, "gini": place / 8} for place, segment in enumerate(each)}
        for kind, each in kinds.items()
        if kind != "all"
    }
    rows = cold_start.list_rows(results, kinds)
    assert {row["variant"] for row in rows} == {distilled["label"]}
    assert [(row["kind"], row["segment"]) for row in rows] == [
        (kind, segment.name) for kind, each in kinds.items() for segment in each
    ]
    for kind in kinds:
        assert sum(row["instances"] for row in rows if row["kind"] == kind) == len(TASK.split.test)
    text = cold_start.list_markdown(rows)
    second = rows[2]
    assert second["figures"]["gini"] == 1 / 8
    assert f"| target {second['segment']} | {second['instances']} | 0.500 | 0.125 | 0.500 |" in text
    assert f"| all | {len(TASK.split.test)} | 0.500 | 0.750 |" in text


@pytest.mark.parametrize(
    ("topic", "read"), [("table2", ["datasets"]), ("cold_start", []), ("efficiency", [])]
)
def test_flags_of_variants_that_nothing_reads_are_told(topic, read):
    """A warning names each flag that the study doesn't read."""
    command = dataclasses.replace(COMMAND, topics={topic: f"{__name__}:done"})
    flags = {"datasets": "Toys", "variants": "prmkd", "dataset_flags": "Toys: dropout=0.3"}
    call, stream = make_call(command, [f"--{name}={text}" for name, text in flags.items()], topic)
    study.run(call)
    assert stream.getvalue().splitlines() == [
        f"warning: --{name} has no effect: study {topic} does not read it"
        for name in sorted(set(flags) - set(read))
    ]


def done(_: Call) -> None:
    """A study that trains nothing."""


def test_ranks_of_other_data_or_another_split_are_refused(tmp_path):
    """One line asks for the flags that the run was made with."""
    ranks = np.zeros((1, len(TASK.split.test)))
    results, _ = made_results(ranks, ranks)
    cold_start.require_same(TASK, results, tmp_path)
    for key, part in (("fingerprint", "data"), ("digest", "split")):
        wrong = copy.deepcopy(results)
        wrong[part][key] = "0" * 64
        with pytest.raises(UserError, match="give the flags that the run was made with"):
            cold_start.require_same(TASK, wrong, tmp_path)


def test_a_finished_cold_start_is_shown_for_its_own_data_alone(tmp_path):
    """With other data or another split it is refused, and its table stays as it was."""
    argv = [*SMALL, f"--output_dir={tmp_path}"]
    task = load_task(make_call(COMMAND, argv, "cold_start")[0].settings)
    ranks = np.random.default_rng(0).integers(0, 20, (1, len(task.split.test))).astype(float)
    results, arrays = made_results(ranks, ranks / 2, task)
    write_sealed_json(tmp_path / "results.json", results)
    np.savez(tmp_path / "ranks.npz", **arrays)
    cold_start.run(make_call(COMMAND, argv, "cold_start")[0])
    call, stream = make_call(COMMAND, argv, "cold_start")
    cold_start.run(call)
    assert "this study is finished" in stream.getvalue()
    assert find_studies(tmp_path) == [TRAIN_FILES]
    identity = json.loads((tmp_path / "cold_start_run.json").read_text())["identity"]
    assert identity["data"] == task.dataset.fingerprint
    assert identity["split"] == task.split_digest
    table = (tmp_path / "cold_start.md").read_bytes()
    for other in ("--synthetic_users=50", "--split=temporal", "--overwrite --split=temporal"):
        call, stream = make_call(COMMAND, [*argv, *other.split()], "cold_start")
        with pytest.raises(UserError, match="give the flags that the run was made with"):
            cold_start.run(call)
        assert not stream.getvalue()
        assert (tmp_path / "cold_start.md").read_bytes() == table


@pytest.mark.parametrize("kind", ["empty", "half", "flip", "text", "short", "nan", "below", "int"])
def test_damaged_ranks_are_told_by_their_file(tmp_path, kind):
    """One line names the file and what is expected in it."""
    path, ranks = tmp_path / "ranks.npz", np.arange(40.0)
    made = {
        "short": ranks[:-1],
        "nan": np.where(ranks == 3, np.nan, ranks),
        "below": ranks - 1,
        "int": ranks.astype(int),
    }
    np.savez_compressed(path, **{"base-seed0": made.get(kind, ranks)})
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "half": content[: len(content) // 2],
            "flip": content[:90] + bytes([content[90] ^ 1]) + content[91:],
            "text": b"hello",
        }.get(kind, content)
    )
    with pytest.raises(UserError, match=r"ranks\.npz: .*expected the ranks that the study") as told:
        cold_start.read_ranks(path, 40)
    assert len(str(told.value).splitlines()) == 1


def test_a_table_that_is_no_text_is_told(tmp_path):
    """One line names the table's file and what is expected, also when a study is shown again."""
    argv = ["--synthetic_users=30", "--synthetic_items=20", "--datasets=synthetic"]
    argv += [f"--output_dir={tmp_path}"]
    table2.run(make_call(COMMAND, argv, "table2")[0])
    (tmp_path / "table2.md").write_bytes(b"caf\xe9")
    with pytest.raises(
        UserError, match=r"table2\.md: can't be read .*, expected the study's table"
    ):
        table2.run(make_call(COMMAND, argv, "table2")[0])


def test_table3_has_the_papers_models_and_what_is_cheap():
    """Every model but the base is compared with the base, and only PRM-KD has teachers."""
    variants = {one.name: one for one in table3.list_variants(settings())}
    assert list(variants) == ["gru4rec", "bert4rec", "recguru", "base", "base-text", "prmkd"]
    for name, variant in variants.items():
        found = settings(*variant.flags)
        assert variant.reference == (None if name == "base" else "base")
        assert found.student.student == (name if name in table3.CONVENTIONAL else "sasrec")
        assert bool(found.run.teachers) is (name == "prmkd")
    begun = settings("--item_init=teachers")
    for variant in table3.list_variants(begun):
        settings("--item_init=teachers", *variant.flags)


def test_temporal_divides_all_by_one_clock():
    """Every variant, the plain students included, has the temporal split."""
    variants = temporal.list_variants(settings())
    assert [one.name for one in variants] == ["base", "base-text", "prmkd"]
    assert {settings(*one.flags).data.split for one in variants} == {"temporal"}


def test_sensitivity_changes_one_setting_at_a_time():
    """Each value but the given one has a row, and that row changes its one setting only."""
    given = settings("--hidden_size=64", "--num_heads=2")
    variants = sensitivity.list_variants(given)
    assert len({one.name for one in variants}) == len(variants)
    for one in variants:
        if one.name == "prmkd" or one.kind == "base":
            continue
        flag, _, value = one.name.partition("=")
        assert one.flags == (f"--{flag}={value}",)
        own = given.student if flag == "hidden_size" else given.distill
        assert getattr(own, flag) != float(value)
    plain = [one for one in variants if one.kind == "base"]
    assert [int(one.name.partition("=")[2]) for one in plain] == [16, 32, 64, 128, 300, 400]
    assert [one.reference for one in plain].count(None) == 1


def test_curricula_are_compared_with_the_same_model_without_one():
    """Each schedule is compared with its own model without one; too long ones are left out."""

    def found(*flags):
        variants = curriculum.list_variants(settings(*flags))
        epochs = {
            one.name: settings(*flags, *one.flags).train.curriculum_epochs for one in variants
        }
        return variants, epochs

    variants, epochs = found("--max_epochs=20")
    scheduled = {"curriculum-4": 4, "curriculum-8": 8}
    assert epochs == {
        "prmkd": 0,
        **{f"prmkd-{name}": length for name, length in scheduled.items()},
        "base": 0,
        **{f"base-{name}": length for name, length in scheduled.items()},
        "base-text": 0,
    }
    for one in variants:
        assert one.reference == (one.name.partition("-")[0] if epochs[one.name] else None)
        assert bool(settings(*one.flags).run.teachers) == one.name.startswith("prmkd")
    _, own = found("--max_epochs=7", "--curriculum_epochs=6")
    assert list(own.values()) == [0, 4, 6, 0, 4, 6, 0]
    _, short = found("--max_epochs=3")
    assert list(short) == ["prmkd", "base", "base-text"]


def test_each_setting_has_a_curve():
    """The given value and the others are points of the curves, with teachers and alone."""
    results = fake_results()
    base, given = results["variants"]
    results["settings"]["hidden_size"] = 64
    other = {**given, "name": "hidden_size=128", "test": {**given["test"], "NDCG@10": 0.05}}
    plain = [{**base, "name": f"base-hidden_size={width}"} for width in (64, 128)]
    results["variants"] = [given, other, *plain]
    drawn = curve(results, "hidden_size").svg()
    assert "width D" in drawn
    for text in (">64<", ">128<", "PRM-KD", "alone"):
        assert text in drawn
    results["variants"] = plain
    alone = curve(results, "hidden_size").svg()
    assert "alone" in alone
    assert "PRM-KD" not in alone  # the first variant isn't the distilled one
    names = study_files("sensitivity").names()
    assert all(f"sensitivity_{flag}.png" in names for flag in SIGNS)
    assert "sensitivity-Toys_temperature.svg" in study_files("sensitivity-Toys").names()
    assert not any("temperature" in name for name in study_files("rivals").names())


def test_each_data_set_has_its_own_flags():
    """Flags of one data set reach no other, and a name that is not asked for is refused."""
    argv = ["--datasets=Toys,Games", "--dataset_flags=Toys: dropout=0.3 patience=4"]
    call, _ = make_call(COMMAND, argv, "table3")
    calls = each_data_set(call)
    assert list(calls) == ["Toys", "Games"]
    toys, games = (one.settings for one in calls.values())
    assert (toys.data.dataset, games.data.dataset) == ("Toys", "Games")
    assert (toys.student.dropout, games.student.dropout) == (0.3, 0.5)
    assert (toys.train.patience, games.train.patience) == (4, 10)
    assert len(variations(call)) == 12
    assert list(each_data_set(make_call(COMMAND, [], "table3")[0])) == [""]
    wrong, _ = make_call(COMMAND, ["--datasets=Toys", "--dataset_flags=Toy: dropout=0.3"], "table3")
    with pytest.raises(UserError, match=r"found .Toy: dropout=0\.3., expected name"):
        each_data_set(wrong)
    alone, _ = make_call(COMMAND, ["--dataset_flags=Toys: dropout=0.3"], "table3")
    with pytest.raises(UserError, match="--dataset_flags: found no --datasets"):
        each_data_set(alone)


def test_a_part_of_a_flagfiles_data_sets(tmp_path):
    """Flags of a data set that isn't asked for but exists are accepted."""
    (tmp_path / "Toys").mkdir()
    (tmp_path / "Toys" / "interactions.parquet").touch()
    flags = "--dataset_flags=Toys: dropout=0.3; Games: dropout=0.1"
    call, _ = make_call(COMMAND, ["--datasets=Games", flags, f"--data_dir={tmp_path}"], "table3")
    calls = each_data_set(call)
    assert list(calls) == ["Games"]
    assert calls["Games"].settings.student.dropout == 0.1


def test_data_sets_stand_next_to_each_other_and_to_the_paper():
    """Each data set has its own paper's cells and its own best value in bold."""
    lower = copy.deepcopy(fake_results())
    for model in (*lower["teachers"].values(), *lower["variants"]):
        model["test"] = {metric: value / 2 for metric, value in model["test"].items()}
    del lower["teachers"]["unim2rec"]
    lines = together("Main", {"Scientific": fake_results(), "Beauty": lower}).splitlines()
    head = (
        "| model | Scientific Recall@10 | Scientific NDCG@10 | Beauty Recall@10 | Beauty NDCG@10 |"
    )
    assert lines[2] == head
    assert lines[5] == (
        "| UniSRec text+ID | **0.1235** (0.1215) | **0.0681** (0.0668) | **0.0617** | **0.0340** |"
    )
    assert lines[6] == "| UniM²Rec | 0.1163 (0.1249) | 0.0679 (0.0895) | – | – |"
    assert lines[8].startswith(
        "| PRM-KD (SASRec) | 0.1187* (0.1231) | 0.0641* (0.0627) | 0.0593* |"
    )
    assert lines[9] == "| change by distillation | +16.4 % | +18.7 % | +16.4 % | +18.7 % |"


def test_a_star_is_against_what_the_study_compares_with():
    """The words above the table name the study's reference, not that of table3."""
    results = fake_results()
    results["study"]["versus"] = "PRM-KD"
    results["variants"].append({**results["variants"][1], "name": "other", "label": "Other"})
    lines = together("Rivals", {"Scientific": results}).splitlines()
    assert "*: p < 0.05 against PRM-KD," in lines[0]
    assert lines[-1].startswith("| Other | ")


def served() -> dict:
    """A benchmark of the models of `fake_results`, without UniM²Rec."""
    models, latencies = [], []
    sizes = {
        ("plain student", "cached"): (10, 2.0),
        ("distilled student", "cached"): (10, 2.1),
        ("UniSRec text+ID", "cached"): (30, 5.0),
        ("UniSRec text+ID", "recomputed"): (60, 50.0),
    }
    for items in (1000, 50):
        for (name, vectors), (held, ms) in sizes.items():
            place = {"model": name, "item_vectors": vectors, "items": items}
            parameters = 5_778_452 if name.startswith("UniSRec") else 2_783_100
            models.append({**place, "bytes_held": held * items, "parameters": parameters})
            latencies += [{**place, "batch": b, "p50_ms": ms * b * items} for b in (1, 8)]
    return {"models": models, "latencies": latencies, "environment": {"processor": "x"}}


def test_costs_are_in_times_the_plain_students():
    """Time, memory and latency of each model are multiples of the plain student's."""
    found = efficiency.find(fake_results(), fake_timing(), served())
    rows = {(row["model"], row["item_vectors"]): row for row in found.content["rows"]}
    assert len(rows) == 4
    teacher = rows["UniSRec text+ID", "recomputed"]
    assert (teacher["bytes_held"], teacher["p50_ms"]) == (60 * 50, 50.0 * 8 * 50)
    assert teacher["epoch_seconds"] == pytest.approx(301.7 / 31)
    assert teacher["test"]["NDCG@10"] == 0.0681
    lines = found.markdown.splitlines()
    assert lines[4].startswith("| SASRec | cached | 1.00× (1.0×) | 1.00× (1.0×) | 1.00× (1.0×) |")
    assert lines[5].startswith("| PRM-KD (SASRec) | cached | 1.10× (1.2×) | 1.00× (1.0×) | 1.05×")
    assert lines[7].startswith(
        "| UniSRec text+ID | recomputed | 1.34× (2.7×) | 6.00× (51.5×) | 25.00×"
    )
    svg = found.sketches["efficiency"].svg()
    assert "area: memory" in svg
    assert "mathdefault" not in svg  # numbers, and no formulas


@pytest.mark.parametrize("name", ["plain student", "distilled student", "UniSRec text+ID"])
def test_costs_of_a_model_of_another_size_are_refused(name):
    """A benchmark with another number of parameters is refused, and its model is named."""
    measured = served()
    for model in measured["models"]:
        model["parameters"] -= model["model"] == name
    with pytest.raises(UserError, match=rf"bench-serve\.json: {re.escape(name)}: found .*[0-9],"):
        efficiency.find(fake_results(), fake_timing(), measured)


def test_what_was_not_measured_is_named(tmp_path):
    """One line names the missing file and the command that makes it."""
    call, _ = make_call(COMMAND, [f"--output_dir={tmp_path}"], "efficiency")
    with pytest.raises(UserError, match=r"results\.json: missing, expected what the command train"):
        efficiency.run(call)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_benchmark_is_told(tmp_path, content):
    """One line says so, although the benchmark's file has no digest."""
    write_sealed_json(tmp_path / "results.json", fake_results())
    write_sealed_json(tmp_path / "timing.json", fake_timing())
    (tmp_path / "bench-serve.json").write_bytes(content)
    call, _ = make_call(COMMAND, [f"--output_dir={tmp_path}"], "efficiency")
    with pytest.raises(UserError, match=r"bench-serve\.json: damaged .*, expected what bench"):
        efficiency.run(call)
