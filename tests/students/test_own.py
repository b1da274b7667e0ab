import re
from types import SimpleNamespace

import pytest

from prmkd_jax.students.config import OWN_GROUP
from tests.packages import ROOT, install, run_beside

PAGE = ROOT / "docs" / "own_student.md"

# Trains the student named on the command line, alone and distilled, where the next item is certain.
TRAIN = """
import dataclasses, json, sys
from pathlib import Path
from experiments.cli.settings import GROUPS
from experiments.cli.flags import parse
from prmkd_jax.common.errors import UserError
from prmkd_jax.evaluate.metrics import ranking_metrics
from prmkd_jax.serve.exported import export_student, read_exported, read_params
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.students.registry import label
from prmkd_jax.train.loop import fit
from tests.worlds import cycle_world, distilled, make_run, same_bits
folder, *names = sys.argv[1:]
found = {}
for name in names:
    parse([f"--student={name}"], GROUPS)
    run = make_run(cycle_world(), Path(folder) / name)
    run = dataclasses.replace(run, student=dataclasses.replace(run.student, student=name))
    train = dataclasses.replace(run.train, learning_rate=0.03, max_epochs=3, checkpoint_seconds=60)
    run = dataclasses.replace(run, train=train)
    try:
        fitted = [fit(run), fit(dataclasses.replace(run, **distilled(run, distill_weight=0.1)))]
        found[name] = [[ranking_metrics(f.test.all_items)["NDCG@10"], f.parameters] for f in fitted]
        found[name].append(same_bits(*(f.params for f in fitted)))
        folder, world = Path(sys.argv[1]) / f"{name}-exported", run.task.dataset
        export_student(folder, fitted[0].params, run.student, run.facts, world)
        again = read_params(folder, run.student, run.facts, world)
        same = same_bits(again, read_exported(folder).params)
        answers = Recommender.load(folder).recommend([["i3", "i4"], ["i20"]], 2)
        best = [answer.items[0].item for answer in answers]
        found[name].append([label(run.student), same, best, read_exported(folder).card["class"]])
    except UserError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def page() -> SimpleNamespace:
    """The page's code, and its entry point: name, module:class."""
    text = PAGE.read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    entry = re.search(r'^(\w+) = "(my_package\.own:\w+)"$', text, re.MULTILINE)
    return SimpleNamespace(code=code, name=entry[1], place=entry[2])


@pytest.fixture(scope="module")
def trained(page, tmp_path_factory) -> dict:
    """What `TRAIN` says of the page's class, and of others in a module of their own."""
    folder = tmp_path_factory.mktemp("own")
    others = {name.lower(): name for name in MISTAKES} | SHAPES
    entries = {page.name: page.place}
    entries |= {name: f"{BAD_MODULE}:{cls}" for name, cls in others.items()}
    install(folder, OWN_GROUP, page.code, **entries)
    (folder / "my_package" / "bad.py").write_text(BAD)
    return run_beside(folder, TRAIN, *entries)


def test_the_pages_student_learns_is_exported_and_recommends(page, trained):
    """By its entry point's name it trains alone and distilled, and its export is read back."""
    assert len(page.code.splitlines()) <= 40
    (plain, parameters), (taught, as_many), same, served = trained[page.name]
    # Popularity would give about 0.1: all 40 items are equally popular.
    assert plain > 0.9
    assert taught > 0.9
    assert not same
    assert parameters == as_many == 2 * 40 * 12
    # Exported, read back and asked: item i is always followed by item i + 1.
    label, read_back, best, identity = served
    assert label == page.name
    assert read_back
    assert best == ["i5", "i21"]
    assert identity == {"class": page.place, "package": "my-package", "version": "1.0"}


BAD = """
import jax.numpy as jnp
from flax import nnx
from prmkd_jax.students.about import About
class Padded(nnx.Module):
    rows = 1
    def __init__(self, config, facts, *, rngs):
        self.table = nnx.Param(jnp.zeros((facts.num_items + self.rows, 3)))
    def queries(self, rows, rngs=None): return self.table[...][rows.item_seq].reshape(-1, 3)
    def items(self): return self.table[...]
    def score(self, queries, items): return queries @ items.T
class Shaped(Padded):
    rows = 0
    def queries(self, rows, rngs=None): return self.table[...][rows.item_seq]
class Sound(Padded):
    rows = 0
class Unmade(Sound):
    def __init__(self, config, facts, *, rngs): self.width = config.no_such_field
class Raises(Sound):
    def items(self): raise KeyError("no such key")
class Evaluates(Sound):
    def queries(self, rows): return Padded.queries(self, rows)
class Array(Sound):
    def items(self): return [1.0]
class Whole(Sound):
    def score(self, queries, items): return (queries @ items.T).astype(int)
class Vector(Sound):
    def auxiliary(self, rows, rngs): return jnp.zeros(3)
class Misnamed(Sound):
    about = About(item_tables=("tables",))
class Alone(Sound):
    about = About(rows_alone=True)
class Counted(Sound):
    def __init__(self, config, facts, *, rngs):
        super().__init__(config, facts, rngs=rngs)
        self.count = nnx.Param(jnp.arange(3))
class Masked(Sound):
    def __init__(self, config, facts, *, rngs):
        super().__init__(config, facts, rngs=rngs)
        self.mask = nnx.Param(jnp.array([0.0, -jnp.inf]))
class Told(Sound):
    about = {"label": "x"}
class Lost(Sound):
    about = About(default_loss="nope")
class Plain:
    def __init__(self, config, facts, *, rngs): pass
"""
BAD_MODULE = "my_package.bad"
MISTAKES = {
    "Unmade": "Unmade.__init__ raised AttributeError: 'StudentConfig' object has no attribute",
    "Raises": "Raises.items raised KeyError: 'no such key' (bad.py, line ",
    "Evaluates": "Evaluates.queries raised TypeError: Evaluates.queries() takes 2 positional",
    "Array": "Array.items returned list, expected floats [40, d]",
    "Whole": "Whole.score returned int32, expected floats [6, 40]",
    "Vector": "Vector.auxiliary returned shape [3], expected one number",
    "Misnamed": "Misnamed.about: item_tables: found 'tables', expected parameters with a row for "
    "each of 40 items, out of: table",
    "Alone": "Alone.about: rows_alone: found True without item_tables, expected their names",
    "Counted": "Counted: attribute count: found int32, expected floats",
    "Masked": "Masked: attribute mask: found numbers that are not finite, expected finite ones",
    "Told": "Told.about: found dict, expected an About",
    "Lost": "Lost.about: default_loss: found 'nope', expected one of softmax, ",
    "Plain": "Plain is no flax.nnx.Module, expected one",
}


SHAPES = {"padded": "Padded", "shaped": "Shaped", "gone": "Gone"}


@pytest.mark.parametrize("cls", MISTAKES)
def test_mistakes_of_the_class_name_class_and_method(trained, cls):
    """One line names them; there is no traceback from JAX."""
    said = trained[cls.lower()]
    assert said.startswith(f"--student: {cls.lower()}: {BAD_MODULE}.{MISTAKES[cls]}")
    assert "\n" not in said


def test_other_shapes_than_the_protocols_are_told_in_one_line(trained):
    """A padding row or a wrong axis is refused, and the line has the shapes expected."""
    assert trained["padded"].startswith(
        "--student: padded: found queries, items and scores of shape [[6, 3], [41, 3], [6, 41]]"
    )
    assert "expected [[6, 3], [40, 3], [6, 40]]" in trained["padded"]
    assert "of shape [[2, 3, 3], [40, 3]] for 6 slots" in trained["shaped"]
    assert trained["gone"].startswith("--student: gone: my_package.bad:Gone can't be imported")
