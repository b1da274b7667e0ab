import re
from importlib.metadata import distributions

import numpy as np
import pytest

from prmkd_jax.common import plugins as own
from teachers_torch.given.list_files import read_lists
from teachers_torch.given.plugin import OWN_GROUP
from teachers_torch.registry import TEACHERS
from tests.packages import ROOT, install, run_beside

PAGE = ROOT / "docs" / "own_teacher.md"

# Tunes the teachers named on the command line over a ring of items, saves and loads them, and
# prints their cards and what their kinds say.
TUNE = """
import dataclasses, json, sys
import numpy as np
from pathlib import Path
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import make_task
from teachers_torch.settings import TeacherSettings
from teachers_torch.registry import TEACHERS, identity, kind
from teachers_torch.store import load, save
from teachers_torch.tuning import tune
from tests.teachers_torch.worlds import ring_world
folder, task, settings = Path(sys.argv[1]), make_task(ring_world()), TeacherSettings()
cache, cards = Cache(folder), {"known": TEACHERS}
for name in sys.argv[2:]:
    try:
        found = kind(name)
        found.check(task, settings, cache)
        keys = [identity(name, task, settings, seed).key for seed in (0, 1)]
        teacher, card = tune(identity(name, task, settings, 0), task, settings, cache, print)
        save(teacher, card, folder / "saved")
        again, its_card = load(
            name, folder / "saved", task, settings, cache=cache, log=print
        )
        assert its_card == card
        if hasattr(teacher, "score"):
            ids, items = np.arange(40), np.arange(20)
            scores = [each.score(ids, items) for each in (teacher, again)]
            assert np.array_equal(*scores, equal_nan=True)
            cards[name] = [dataclasses.asdict(card), teacher.top, np.isnan(scores[0]).sum().item()]
            continue
        assert (again.encode_items() == teacher.encode_items()).all()
        asked = [found.label, found.init, len(found.reads), found.seeded, found.pretraining]
        cards[name] = [dataclasses.asdict(card), teacher.score_scale, asked, keys]
    except UserError as error:
        cards[name] = str(error)
print(json.dumps(cards))
"""


def page_code(place: int) -> str:
    """A code block of the page, the first or another one."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[place]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> dict:
    """What `TUNE` says of the page's classes and of all the others, each in its own module."""
    folder, entries = tmp_path_factory.mktemp("plugin"), dict([page_entry()])
    entries |= {"titles": "my_package.titles:Titles"}
    entries |= {name.lower(): f"my_package.bad:{name}" for name in (*GIVEN, *MISTAKES)}
    install(folder, OWN_GROUP, page_code(0), **entries)
    (folder / "my_package" / "titles.py").write_text(page_code(1))
    (folder / "my_package" / "bad.py").write_text(BAD)
    return run_beside(folder, TUNE, *entries)


def page_entry() -> tuple[str, str]:
    """The entry point that the page names: name, module:class."""
    entry = re.search(r'^(\w+) = "(my_package\.own:\w+)"$', PAGE.read_text(), re.MULTILINE)
    return entry[1], entry[2]


def test_the_pages_teacher_teaches(tuned):
    """The class has at most 32 lines, and its NDCG@10 on a ring is above 0.95."""
    assert len(page_code(0).splitlines()) <= 32
    name, _ = page_entry()
    card, scale, asked, keys = tuned[name]
    # The users' own names come after all of ours.
    assert tuned["known"][: len(TEACHERS)] == [*TEACHERS]
    assert name in tuned["known"]
    # On a ring the next item is certain, and the held-out steps occur with other users.
    assert card["test"]["NDCG@10"] > 0.95
    assert (card["start"], card["epochs"], card["num_parameters"]) == ("own class", 0, 0)
    assert scale == 5.0
    assert asked == ["follows", "", 0, False, None]
    assert keys[0] == keys[1]  # a seed that nothing reads


def test_the_pages_scorer_teaches(tuned):
    """The class that gives scores works: tied titles share the expected rank, 11 of 20."""
    assert "def score" in page_code(1)
    card, top, unknown = tuned["titles"]
    assert top == 200
    assert unknown == 20 * 5  # the first item of each user
    assert (card["start"], card["epochs"], card["num_parameters"]) == ("own class", 0, 0)
    # Every title shares a word with every other one: all but the last item tie, at 11 of 20.
    assert card["test"]["Recall@20"] == 1
    assert card["test"]["Recall@10"] == 0


def test_the_pages_lists_can_be_read(tmp_path):
    """Files of the page's write_lists give each instance's best items their own scores."""
    made: dict = {}
    exec(page_code(2), made)
    scores = np.random.default_rng(0).normal(size=(30, 20))
    scores[4] = np.nan
    made["write_lists"](tmp_path, [scores[:10], scores[10:]], top=7)
    lists = read_lists(tmp_path, 30, 20)
    found = lists.score(np.arange(30), np.arange(20))
    assert np.isnan(found[4]).all()
    for row in (0, 12, 29):
        best = np.argsort(-scores[row])[:7]
        np.testing.assert_array_equal(found[row, best], scores[row, best].astype(np.float16))
        assert np.unique(found[row]).size == 7


BAD = """
import numpy as np
import torch
class Short:
    def __init__(self, dataset): self.n = dataset.num_items
    def encode_instances(self, ids): return np.ones((len(ids), 2))
    def encode_items(self): return np.ones((self.n - 1, 2))
class Nan(Short):
    def encode_items(self): return np.full((self.n, 2), np.nan)
class Grown:
    score_scale = 2
    def __init__(self, dataset): self.n = dataset.num_items
    def encode_instances(self, ids):
        return torch.ones((len(ids), 2), requires_grad=True, dtype=torch.bfloat16)
    def encode_items(self): return torch.eye(self.n)[:, :2].requires_grad_()
class Text(Short):
    def encode_items(self): return "vectors"
class Nothing(Short):
    def encode_items(self): return None
class Empty(Short):
    def encode_items(self): return np.ones((self.n, 0))
class Wide(Short):
    def encode_items(self): return np.ones((self.n, 3))
class Flat(Short):
    def encode_items(self): return np.ones(self.n)
class Unscaled(Short):
    score_scale = None
class Zero(Short):
    score_scale = 0.0
class Negative(Short):
    score_scale = -2.0
class Scorer:
    def __init__(self, dataset): self.n = dataset.num_items
    def score(self, ids, items): return np.zeros((len(ids), len(items) + 1))
class Worded(Scorer):
    def score(self, ids, items): return "scores"
class Topless(Scorer):
    top = 0
class Truly(Scorer):
    top = True
class Hidden(Scorer):
    @property
    def top(self): return 1 / 0
class Ends(Short):
    def encode_items(self): raise SystemExit(0)
class Masked(Short):
    def encode_items(self):
        return np.ma.masked_equal(np.ones((self.n, 2)), 1)
class Partly(Scorer):
    def score(self, ids, items):
        return torch.where(torch.arange(len(items)) == 1, torch.nan, 1.0).repeat(len(ids), 1)
class Half:
    def encode_items(self): return np.ones((20, 2))
class Raises(Short):
    def encode_items(self):
        return {}["no such key"]
class Unmade(Short):
    def __init__(self, dataset): raise RuntimeError("two\\nlines")
class Property(Short):
    @property
    def score_scale(self): return 1 / 0
class Complex(Short):
    def encode_items(self): return np.ones((self.n, 2), complex)
class Objects(Short):
    def encode_items(self): return np.array([[None, 1]] * self.n)
class Huge(Short):
    def encode_items(self): return np.full((self.n, 2), 1e300)
class Closed:
    def __array__(self, *args, **kwargs): raise OSError("it is closed")
class Lazy(Short):
    def encode_items(self): return Closed()
class LazyScores(Scorer):
    def score(self, ids, items): return Closed()
class Blank(Scorer):
    def score(self, ids, items): return None
class Yields(Short):
    def encode_items(self): return ([1.0, 1.0] for _ in range(self.n))
class Endless(Short):
    score_scale = 10**400
class Tiny(Short):
    score_scale = 1e-300
class Named(Short):
    label = 5
class Sparse(Short):
    def encode_items(self): return torch.eye(self.n)[:, :2].to_sparse()
class Turned:
    score_scale = torch.tensor(2.0, requires_grad=True)
    def __init__(self, dataset): self.n = dataset.num_items
    def encode_instances(self, ids): return np.ones((2, len(ids))).T[:, ::-1]
    def encode_items(self): return [[float(item), 1] for item in range(self.n)][::-1]
"""


GIVEN = ("Short", "Nan", "Half", "Gone", "Grown", "Turned", "Partly")
"""Classes of which more is told, or whose vectors are taken."""
# Class → what is told of it.
MISTAKES = {
    "Text": "Text.encode_items returned str, expected an array of [20, d] of finite numbers",
    "Nothing": "Nothing.encode_items returned NoneType, expected an array of [20, d]",
    "Empty": "Empty.encode_items returned shape [20, 0], expected [20, d] of finite numbers",
    "Wide": "Wide: found vectors of width encode_instances 2 and encode_items 3",
    "Flat": "Flat.encode_items returned shape [20], expected [20, d] of finite numbers",
    "Unscaled": "Unscaled.score_scale is None, expected a finite number above 0",
    "Negative": "Negative.score_scale is -2.0, expected a finite number above 0",
    "Scorer": "Scorer.score returned shape [60, 21], expected an array of [60, 20] of numbers",
    "Worded": "Worded.score returned str, expected an array of [60, 20] of numbers",
    "Blank": "Blank.score returned NoneType, expected an array of [60, 20] of numbers",
    "Lazy": "Lazy.encode_items returned Closed, expected an array of [20, d] of finite numbers",
    "LazyScores": "LazyScores.score returned Closed, expected an array of [60, 20] of numbers",
    "Yields": "Yields.encode_items returned generator, expected an array of [20, d] of finite",
    "Endless": f"Endless.score_scale is 1{'0' * 56}..., expected a finite number above 0",
    "Tiny": "Tiny.score_scale is 1e-300, expected a finite number above 0, that float32 can",
    "Named": "Named.label is 5, expected text",
    "Topless": "Topless.top is 0, expected a whole number of items above 0",
    "Truly": "Truly.top is True, expected a whole number of items above 0",
    "Hidden": "Hidden.top raised ZeroDivisionError: division by zero (bad.py, line ",
    "Ends": "Ends.encode_items raised SystemExit: 0 (bad.py, line ",
    "Masked": "Masked.encode_items returned nan or inf in row 0, expected finite numbers",
    "Zero": "Zero.score_scale is 0.0, expected a finite number above 0",
    "Raises": "Raises.encode_items raised KeyError: 'no such key' (bad.py, line ",
    "Unmade": "Unmade.__init__ raised RuntimeError: two (bad.py, line ",
    "Property": "Property.score_scale raised ZeroDivisionError: division by zero (bad.py, line ",
    "Complex": "Complex.encode_items returned dtype complex128, expected an array of [20, d]",
    "Objects": "Objects.encode_items returned ndarray, expected an array of [20, d] of finite num",
    "Huge": "Huge.encode_items returned nan or inf in row 0, expected finite numbers",
    "Sparse": "Sparse.encode_items returned Tensor, expected an array of [20, d] of finite number",
}


def test_mistakes_of_the_class_are_reported_in_one_line(tuned):
    """Each message names the entry, the class and what it returned or lacks."""
    told = "my_package.bad:Short.encode_items returned shape [19, 2], expected [20, d]"
    assert told in tuned["short"]
    assert "Nan.encode_items returned nan or inf in row 0, expected finite numbers" in tuned["nan"]
    assert "my_package.bad:Half has no method encode_instances" in tuned["half"]
    assert "teacher partly: found scores that are not finite" in tuned["partly"]
    assert "my_package.bad:Gone can't be imported" in tuned["gone"]
    for name, line in MISTAKES.items():
        assert f"--teachers: {name.lower()}: my_package.bad:{line}" in tuned[name.lower()]
    # Tensors with a gradient, and of half precision, are vectors all the same.
    assert tuned["grown"][1] == 2.0
    # So are lists and arrays in any order, and a scale that is a parameter.
    assert tuned["turned"][1] == 2.0


def test_the_packages_version_tells_two_teachers_apart(tmp_path, monkeypatch):
    """Equal versions share an identity, and another version has another one."""
    identities = []
    for folder, version in (("a", "1.0"), ("b", "1.0"), ("c", "1.1")):
        (tmp_path / folder).mkdir()
        install(tmp_path / folder, OWN_GROUP, BAD, version, short="my_package.own:Short")
        (package,) = distributions(path=[str(tmp_path / folder)])
        monkeypatch.setattr(own, "entry_points", lambda group, found=package: found.entry_points)
        identities.append(own.own_identity(OWN_GROUP, "short"))
    assert identities[0] == identities[1] != identities[2]
    assert identities[0] == {
        "class": "my_package.own:Short", "package": "my-package", "version": "1.0",
    }  # fmt: skip
