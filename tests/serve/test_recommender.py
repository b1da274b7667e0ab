"""Recommendations against the evaluator and against numpy on all scores."""

import concurrent.futures
import dataclasses
import gc
import json
import weakref

import jax
import numpy as np
import pytest
from flax import nnx

import prmkd_jax.serve as public
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.evaluate.evaluator import Evaluator
from prmkd_jax.serve import recommender as module
from prmkd_jax.serve import requests, scorer
from prmkd_jax.serve.exported import export_student
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.students.config import BUILT_IN
from prmkd_jax.students.registry import about, window
from prmkd_jax.students.student import create_student
from tests.checking import uncheck
from tests.packages import ROOT, run_beside
from tests.serve.compiled_sizes import compiled_sizes
from tests.serve.exports import export
from tests.students import fields
from tests.students.reference import random_params
from tests.worlds import MAX_SEQ_LEN, facts, random_world, student_config, task_of

TITLES = tuple(f"Title {item} <b>" for item in range(fields.WORLD.num_items))
WORLD = dataclasses.replace(fields.WORLD, catalogue=Catalogue({**fields.TEXTS, "title": TITLES}))
TASK = task_of(WORLD)
TEST = TASK.split.test


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Name → (recommender, graphdef, params); each exported once."""
    made = {}

    def serve(name):
        if name not in made:
            config = student_config(student=name)
            known = facts(WORLD, window(config, MAX_SEQ_LEN))
            graphdef, state = create_student(config, known, 0)
            params = random_params(nnx.to_pure_dict(state), seed=5)
            folder = tmp_path_factory.mktemp("served") / name
            export_student(folder, params, config, known, WORLD)
            made[name] = (Recommender.load(folder), graphdef, params, folder)
        return made[name]

    return serve


def histories(instances) -> tuple[list[list[str]], list[str]]:
    """What each instance's user had read, and the user, by their ids."""
    interactions, ids = WORLD.interactions, WORLD.item_ids
    users = interactions.users[instances]
    read = [
        [ids[item] for item in interactions.items[interactions.indptr[user] : end]]
        for user, end in zip(users, instances, strict=True)
    ]
    return read, [WORLD.user_ids[user] for user in users]


@pytest.mark.parametrize("name", BUILT_IN)
def test_targets_have_the_ranks_that_the_evaluator_gives_them(served, name):
    """Lists and `ranks` agree with it for all users, with seen items masked or not."""
    recommender, graphdef, params, _ = served(name)
    evaluator = Evaluator(
        graphdef, WORLD, TEST, recommender.exported.facts.window, 65, 32,
        own_slot=about(name).own_slot,
    )  # fmt: skip
    expected, (read, users) = evaluator(params), histories(TEST)
    targets = [WORLD.item_ids[item] for item in TASK.targets(TEST)]
    for filter_seen, ranks in ((False, expected.all_items), (True, expected.unseen_items)):
        answers = recommender.recommend(read, WORLD.num_items, users=users, filter_seen=filter_seen)
        for answer, target, rank, history in zip(answers, targets, ranks, read, strict=True):
            order = [one.item for one in answer.items]
            assert (
                len(set(order))
                == len(order)
                == WORLD.num_items - (len(set(history)) if filter_seen else 0)
            )
            if np.isinf(rank):
                assert target not in order
            elif rank == int(rank):
                assert order.index(target) == rank
        found = recommender.ranks(
            read, [[target] for target in targets], users=users, filter_seen=filter_seen
        )
        # A target in the history has a place all the same; the evaluator says it can't be reached.
        reached = np.isfinite(ranks)
        np.testing.assert_array_equal(np.concatenate(found)[reached], ranks[reached])


def test_what_a_student_does_not_know_has_no_place(served):
    """An unknown item ranks at infinity, and so does any item after an unknown history."""
    recommender = served("sasrec")[0]
    found = recommender.ranks([["i3"], ["new"], ["i4"]], [["new", "i5"], ["i5"], []])
    assert np.isinf(found[0][0])
    assert np.isfinite(found[0][1])
    assert np.isinf(found[1][0])
    assert found[2] == []
    with pytest.raises(ValueError, match="items: found 1 lists, expected 2"):
        recommender.ranks([["i3"], ["i4"]], [["i5"]])


@pytest.mark.parametrize("name", ["sasrec", "deepfm", "lightgcn"])
def test_lists_and_histories_cut_to_what_numpy_leaves(served, name):
    """The items left keep order and scores, whether lists are for all or for one row."""
    recommender = served(name)[0]
    read, users = histories(TEST[:3])
    everything = recommender.recommend(read, WORLD.num_items, users=users, filter_seen=False)
    scores = [{one.item: one.score for one in answer.items} for answer in everything]
    items = list(WORLD.item_ids)
    cases = [
        {"allow": items[:9], "deny": items[4:6]},
        {"allow": [items[:3], items[10:30], []]},
        {"deny": [items[5:], [], ["unknown", items[0]]]},
        {"allow": []},
        {"allow": items[::2], "deny": [[items[0]], items[:20], items]},
    ]
    for case in cases:
        answers = recommender.recommend(read, 12, users=users, **case)
        for row, answer in enumerate(answers):
            allow, deny = (
                lists if lists is None or not lists or isinstance(lists[0], str) else lists[row]
                for lists in (case.get("allow"), case.get("deny"))
            )
            left = [
                item
                for item in items
                if item not in read[row]
                and (allow is None or item in allow)
                and item not in (deny or ())
            ]
            expected = sorted(left, key=lambda item: -scores[row][item])[:12]
            assert [one.item for one in answer.items] == expected
            found = [one.score for one in answer.items]
            np.testing.assert_allclose(
                found, [scores[row][item] for item in expected], rtol=1e-5, atol=1e-5
            )


def test_unknown_items_are_skipped_and_counted(served):
    """A history with items of tomorrow is answered from those that are known."""
    recommender = served("sasrec")[0]
    read = ["i3", "i9", "i11"]
    with_unknown = ["new", "i3", "i9", "newer", "i11"]
    one, other, none, empty = recommender.recommend([read, with_unknown, ["new"], []], k=5)
    assert other.unknown_items == 2
    assert [x.item for x in one.items] == [x.item for x in other.items]
    assert (none.items, none.unknown_items) == ([], 1)
    assert (empty.items, empty.unknown_items) == ([], 0)
    assert recommender.recommend([]) == []


@pytest.mark.parametrize("name", ["fm", "deepfm", "lightgcn"])
def test_unknown_users_are_folded_in(served, name):
    """A user without a vector gets recommendations, and the answer says so."""
    recommender = served(name)[0]
    read, _ = histories(TEST[:2])
    known, stranger = recommender.recommend(read, users=[WORLD.user_ids[7], "stranger"])
    (anonymous,) = recommender.recommend(read[1:])
    assert (known.known_user, stranger.known_user) == (True, False)
    assert len(stranger.items) == 10
    np.testing.assert_allclose(
        [x.score for x in stranger.items], [x.score for x in anonymous.items], rtol=1e-5
    )


def test_an_unknown_user_of_fm_has_the_mean_of_all_users(served):
    """Its scores are those that NumPy computes from the exported tables."""
    recommender, _, params, _ = served("fm")
    read = ["i3", "i9"]
    vector = params["user_embedding"]["table"].mean(0) + (
        params["recent_embedding"]["table"][[3, 9]].mean(0)
    )
    items = recommender.exported.items
    expected = np.append(vector, 1.0) @ items.T
    (answer,) = recommender.recommend([read], 40, filter_seen=False)
    found = {one.item: one.score for one in answer.items}
    np.testing.assert_allclose([found[f"i{n}"] for n in range(40)], expected, rtol=1e-4, atol=1e-5)


def test_a_batch_of_any_size_compiles_few_programs(served):
    """Every number of histories, lists and items is padded to one of a few sizes."""
    recommender = served("gru4rec")[0]
    read, _ = histories(np.concatenate([TEST] * 2))
    sizes = [len(read), 1, 2, 3, 5, 8, 9, 17, 33, 64, 65]
    answers = {}
    for size in sizes:
        answers[size] = recommender.recommend(read[:size], k=3 + size % 7)
    before = compiled_sizes(recommender)
    for size in (1, 4, 6, 7, 10, 31, 63, 66, 80):
        found = recommender.recommend(read[:size], k=1 + size % 10)
        first = answers[len(read)][size - 1].items
        for one, other in zip(found[-1].items, first, strict=False):
            assert one.item == other.item
            assert one.score == pytest.approx(other.score, rel=1e-5)
    assert compiled_sizes(recommender) == before


def test_programs_are_shared_by_models_of_equal_sizes_and_go_with_the_last(tmp_path):
    """A service that loads a newer model each day keeps no program of the catalogues before."""
    before = [
        weakref.ref(Recommender.load(export(tmp_path / f"{seed}", WORLD, seed))._scorer.programs)
        for seed in (0, 1)
    ]
    assert before[0]() is before[1]() is not None
    for items in range(60, 64):
        Recommender.load(export(tmp_path / f"{items}", random_world(items=items), 0))
    gc.collect()
    assert before[0]() is None


def test_more_histories_than_one_batch_are_answered_in_order(served, monkeypatch):
    """Parts of a large batch keep their places, with lists for each row."""
    recommender = served("sasrec")[0]
    read, _ = histories(TEST[:11])
    deny = [[f"i{row}"] for row in range(11)]
    expected = recommender.recommend(read, 5, deny=deny)
    monkeypatch.setattr(module, "MOST_ROWS", 4)
    for one, other in zip(expected, recommender.recommend(read, 5, deny=deny), strict=True):
        assert [x.item for x in one.items] == [x.item for x in other.items]


@pytest.mark.parametrize("name", ["sasrec", "bert4rec", "fm", "deepfm", "lightgcn"])
def test_similar_items_have_the_largest_cosine(served, name):
    """The bias is no direction, and an item is not similar to itself."""
    recommender = served(name)[0]
    table = np.asarray(recommender.exported.items, dtype=float)[:, :12]
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    cosines = table @ table[5]
    cosines[5] = -np.inf
    order = np.argsort(-cosines, kind="stable")[:4]
    found = recommender.similar("i5", 4, explain=True)
    assert [one.item for one in found] == [f"i{row}" for row in order]
    assert [one.title for one in found] == [TITLES[row] for row in order]
    np.testing.assert_allclose([one.score for one in found], cosines[order], atol=1e-5)
    with pytest.raises(UserError, match="similar: found item 'new', expected one that the"):
        recommender.similar("new")


def test_titles_come_with_explain_alone(served):
    """Titles are those of the catalogue, markup included."""
    recommender = served("sasrec")[0]
    (plain,), (told,) = (
        recommender.recommend([["i1"]], 3, explain=explain) for explain in (False, True)
    )
    assert all(one.title is None for one in plain.items)
    assert [one.title for one in told.items] == [f"Title {one.item[1:]} <b>" for one in told.items]


def test_wrong_calls_are_refused(served, monkeypatch):
    """Strings for lists, numbers for ids and other lengths are named in the message."""
    uncheck(module, monkeypatch)
    uncheck(requests, monkeypatch)
    recommender = served("sasrec")[0]
    for message, call in {
        "histories: found a string": {"histories": ["i1"]},
        "histories: found a string, expected a list of lists": {"histories": "i1"},
        "histories: found None, expected a list of lists": {"histories": None},
        "histories: found None, expected a list of item ids": {"histories": [["i1"], None]},
        "histories: found 3 among ids, expected strings": {"histories": [["i1", 3]]},
        "k: found 0": {"histories": [["i1"]], "k": 0},
        "k: found 2.5, expected a whole number": {"histories": [["i1"]], "k": 2.5},
        "k: found True, expected a whole number": {"histories": [["i1"]], "k": True},
        "users: found 2, expected 1": {"histories": [["i1"]], "users": ["u1", "u2"]},
        "users: found 7 among ids": {"histories": [["i1"]], "users": [7]},
        "users: found a string": {"histories": [["i1"]], "users": "u"},
        "allow: found a string": {"histories": [["i1"]], "allow": "i2"},
        "allow: found 2 among ids": {"histories": [["i1"]], "allow": [[2]]},
        "deny: found a string": {"histories": [["i1"], []], "deny": [["i2"], "i3"]},
        "deny: found 2 lists, expected 1": {"histories": [["i1"]], "deny": [["i1"], ["i2"]]},
    }.items():
        with pytest.raises(ValueError, match=message):
            recommender.recommend(**call)
    for k in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"k: found {k}, expected a whole number"):
            recommender.similar("i1", k)
    with pytest.raises(ValueError, match="history: found a string, expected a list"):
        recommender.by_teachers("i1")


def test_ids_may_come_in_anything_that_holds_strings(served, monkeypatch):
    """Tuples, arrays, sets and generators give the same answers as lists."""
    uncheck(module, monkeypatch)
    uncheck(requests, monkeypatch)
    recommender = served("sasrec")[0]
    allow = [f"i{row}" for row in range(5, 30)]
    expected = recommender.recommend(
        [["i3", "i9"], ["i4", "i5"]], k=4, filter_seen=False, allow=allow, deny=["i7"]
    )
    assert "i5" in {one.item for one in recommender.recommend([["i5"]], 40, False)[0].items}
    for histories in (
        (("i3", "i9"), ("i4", "i5")),
        (iter(one) for one in (["i3", "i9"], ["i4", "i5"])),
        np.array([["i3", "i9"], ["i4", "i5"]]),
    ):
        found = recommender.recommend(histories, np.int64(4), False, iter(allow), {"i7"})
        assert found == expected
    (single,) = recommender.ranks(iter([["i3", "i9"]]), iter([iter(["i4"])]))
    assert [single] == recommender.ranks([["i3", "i9"]], [["i4"]])
    assert public.Recommender is Recommender


def test_several_threads_get_their_own_answers(served):
    """Each asks for another history and another k, at once."""
    recommender = served("lightgcn")[0]
    wanted = [[[f"i{n}", f"i{n * 7 % 40}"]] for n in range(24)]
    expected = [recommender.recommend(each, 1 + n % 5) for n, each in enumerate(wanted)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = pool.map(lambda n: recommender.recommend(wanted[n], 1 + n % 5), range(24))
        assert list(found) == expected


def test_long_lists_are_answered_a_few_rows_at_a_time(served, monkeypatch):
    """One long list doesn't make the lists of all other rows as long."""
    recommender = served("sasrec")[0]
    read = [["i1"], ["i2", "i3"], ["i4"], ["i5"] * 9, ["i6"]]
    lists = [["i7", "i8"]] * 4 + [[f"i{row % 30}" for row in range(900)]]
    shapes, padded = [], scorer.padded_lists

    def noting(*arguments, **least):
        made = padded(*arguments, **least)
        shapes.append(made.shape)
        return made

    for name in ("allow", "deny"):
        expected = recommender.recommend(read, 5, **{name: lists})
        with monkeypatch.context() as patch:
            patch.setattr(requests, "MOST_LISTED", 2048)
            patch.setattr(scorer, "padded_lists", noting)
            found = recommender.recommend(read, 5, **{name: lists})
        for one, other in zip(found, expected, strict=True):
            assert [x.item for x in one.items] == [x.item for x in other.items]
    assert set(shapes) == {(8, 64), (1, 64), (1, 1024)}


def test_the_pages_example_runs(served, monkeypatch, capsys):
    """The example of docs/serving.md has ten lines at most and prints lists with titles."""
    page = (ROOT / "docs" / "serving.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 10
    recommender, loaded = served("sasrec")[0], []
    monkeypatch.setattr(Recommender, "load", lambda folder: loaded.append(folder) or recommender)
    exec(code.replace("home-", ""))
    lines = capsys.readouterr().out.splitlines()
    assert loaded == ["runs/demo/students/sasrec-prmkd-seed0"]
    assert len(lines) == 2 * 5 + 3
    assert "Title" in lines[0]


# Opens and scores each export where importing what serving must not need raises. Flax itself
# imports optax, of which nothing may be called: an empty module stands for it.
SERVE = """
import importlib.abc, json, sys, types
BLOCKED = ("torch", "orbax", "transformers", "teachers_torch", "bridge", "experiments")
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED or name.startswith(("prmkd_jax.train",)):
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Block())
optax = types.ModuleType("optax")
for name in ("GradientTransformation", "GradientTransformationExtraArgs", "OptState", "Params"):
    setattr(optax, name, object)
sys.modules["optax"] = optax
from prmkd_jax.serve.recommender import Recommender
answers = {}
for folder in sys.argv[2:]:
    recommender = Recommender.load(folder)
    (answer,) = recommender.recommend([["i3", "i9", "new"]], 5)
    answers[folder] = [list(one) for one in answer.items]
print(json.dumps(answers))
"""


def test_exports_are_served_without_training_data_torch_optax_and_orbax(served, tmp_path):
    """A serving image holds jax, flax, numpy and safetensors, and gives the same answers."""
    folders = {str(served(name)[3]): name for name in BUILT_IN}
    found = run_beside(tmp_path, SERVE, *folders)
    for folder, name in folders.items():
        (expected,) = served(name)[0].recommend([["i3", "i9", "new"]], 5)
        assert [one[0] for one in found[folder]] == [one.item for one in expected.items], name
        np.testing.assert_allclose(
            [one[1] for one in found[folder]], [one.score for one in expected.items], rtol=1e-4
        )
    assert json.dumps(found)
    assert jax.default_backend()
