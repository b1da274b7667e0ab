"""train with teachers that give scores: the untrained ones, lists in a folder, closed columns."""

import json
import re

import numpy as np
import pytest

from experiments.commands.train import COMMAND
from experiments.runs import train
from experiments.stages import students
from prmkd_jax.train.closed import teachers_best
from teachers_torch.items import inputs
from teachers_torch.ranked_lists import as_lists, best
from tests.experiments.calls import make_call
from tests.experiments.runs.test_train import ITEMS, LENGTH, USERS, arguments, write_data
from tests.teachers_torch.worlds import text_vectors


def write_lists(folder, top: int = 5) -> None:
    """Lists of drawn scores; instances are in the order of the histories."""
    scores = np.random.default_rng(0).normal(size=(USERS * LENGTH, ITEMS)).astype(np.float32)
    scores[::LENGTH] = np.nan
    lists = as_lists("any", best(scores, top), ITEMS)
    np.save(folder / "offsets.npy", lists.rows.offsets)
    np.save(folder / "ids.npy", lists.rows.ids)
    np.save(folder / "values.npy", lists.rows.values.astype(np.float16))


def trained(folder, *flags) -> tuple[str, dict]:
    """What the run says, and its results."""
    call, stream = make_call(COMMAND, arguments(folder, *flags))
    train.run(call)
    return stream.getvalue(), json.loads((folder / "out" / "results.json").read_text())


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A data set with titles, whose vectors are drawn, and lists."""
    monkeypatch.setattr(inputs, "encode_texts", text_vectors)
    write_data(tmp_path)
    write_lists(tmp_path)
    return tmp_path


def test_the_teachers_best_items_are_ranked_once_for_all_seeds(world, monkeypatch):
    """They depend on no seed, and to rank them every instance is scored against every item."""
    asked = []

    def counted(run):
        asked.append(run.seed)
        return teachers_best(run)

    monkeypatch.setattr(students, "teachers_best", counted)
    _, results = trained(world, "--teachers=popularity", "--negatives=closed", "--seeds=3,4")
    assert [seed["seed"] for seed in results["variants"][1]["seeds"]] == [3, 4]
    assert asked == [3]


@pytest.mark.parametrize("columns", ["in_batch", "closed"])
def test_teachers_that_give_scores_teach(world, columns):
    """Teachers with scores alone have weights, a distillation loss and rows in the report."""
    names = ["precomputed", "neighbours", "popularity"]
    said, results = trained(world, f"--teachers={','.join(names)}", f"--negatives={columns}")
    base, distilled = results["variants"]
    assert set(distilled["teacher_weights"]) == set(names)
    assert distilled["seeds"][0]["history"][0]["distillation"] > 0
    measured = distilled["seeds"][0]["history"][0]["teachers"]
    assert set(measured) == set(names)
    assert all(0 < teacher["weight"] < 1 for teacher in measured.values())
    assert set(results["teachers"]["neighbours"]["chosen"]) == {"decay", "share", "power", "last"}
    tried = [line for line in said.splitlines() if line.startswith("Teacher neighbours: ")]
    assert len(tried) > 10
    assert tried[-1].startswith("Teacher neighbours: chosen: decay ")
    for label in ("Precomputed", "Neighbours (untrained)", "Popularity (untrained)"):
        assert label in said
    page = (world / "out" / "report.html").read_text()
    assert page.count("Against the teachers and the untrained models") == 1
    for row in (base, distilled):
        assert set(row["against_models"]) == set(names)
        for name, tests in row["against_models"].items():
            for metric, found in tests.items():
                before, after = results["teachers"][name]["test"][metric], row["test"][metric]
                if before:
                    assert found["change"] == pytest.approx(after / before - 1, rel=1e-6)
    # What teaches isn't listed twice.
    assert said.count("Neighbours (untrained)") == 1
    assert ("columns" in distilled["seeds"][0]["history"][0]) == (columns == "closed")
    assert base["teacher_weights"] is None


def test_untrained_models_are_rows_of_every_table(world):
    """Their rows are in the output, the table and the report, though nothing teaches."""
    said, results = trained(world, "--teachers=")
    assert set(results["untrained"]) == {"popularity", "neighbours"}  # there is no clock
    assert results["teachers"] == {}
    assert set(results["variants"][0]["against_models"]) == set(results["untrained"])
    # No teacher of the run reads texts, so nobody encodes any.
    assert results["untrained"]["neighbours"]["settings"]["text_encoder"] is None
    # Of what it tried nobody has asked; the chosen one is said, under the table's name.
    assert "Teacher neighbours" not in said
    [line] = [line for line in said.splitlines() if ": validation NDCG@10" in line]
    assert line.startswith("Neighbours (untrained): chosen: decay ")
    page = (world / "out" / "report.html").read_text()
    table = (world / "out" / "results.md").read_text()
    for model in results["untrained"].values():
        ndcg = f"{model['test']['NDCG@10']:.4f}"
        assert re.search(rf"{re.escape(model['label'])}.*{ndcg}", table)
        assert model["label"] in said
        assert model["label"] in page
    again, _ = trained(world, "--teachers=")
    assert "this run is finished" in again
