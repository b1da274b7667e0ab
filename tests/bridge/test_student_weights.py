import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from bridge.recbole_layout import RECBOLE, recbole_keys
from bridge.student_weights import read_student_start, to_recbole
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.packing import instance_segments, pack
from prmkd_jax.serve.exported import export_student
from prmkd_jax.students.config import BUILT_IN
from prmkd_jax.students.registry import about, window
from prmkd_jax.students.student import create_student, flatten_params
from tests.bridge.recbole_models import HEADS, INNER, LAYERS, MODELS, STATE, WIDTH
from tests.pages import python_block
from tests.worlds import MAX_SEQ_LEN, facts, random_world, same_bits, student_config

WORLD = random_world()
HISTORIES = WORLD.interactions
STUDENTS = [name for name in RECBOLE if name in BUILT_IN]
# Another numbering than the data set's, with an item and a user that it doesn't have.
_rng = np.random.default_rng(3)
TOKENS = {
    "item_id": ["[PAD]", *_rng.permutation([*WORLD.item_ids, "unknown"]).tolist()],
    "user_id": ["[PAD]", *_rng.permutation([*WORLD.user_ids, "stranger"]).tolist()],
}


def config_of(student: str, **changes):
    sizes = {"hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": HEADS, "inner_size": INNER}
    return student_config(student=student, **{**sizes, "gru_size": STATE, **changes})


def facts_of(config):
    return facts(WORLD, window(config, MAX_SEQ_LEN))


def rows_of(field: str, tokens: dict) -> np.ndarray:
    """The row of each of the data set's ids, looked up one by one."""
    ids = {"item_id": WORLD.item_ids, "user_id": WORLD.user_ids}[field]
    rows = [tokens[field].index(one) if tokens else 1 + n for n, one in enumerate(ids)]
    return np.array(rows)


def saved(student: str, path, tokens: dict) -> torch.nn.Module:
    """Writes RecBole's model with weights of ordinary size; returns it in float64."""
    counts = [len(tokens[f]) if tokens else n + 1 for f, n in (("item_id", 40), ("user_id", 60))]
    torch.manual_seed(5)
    model = MODELS[student](*counts, MAX_SEQ_LEN)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.4 + 0.5 * (parameter.dim() == 1))
    content = {"state_dict": model.state_dict(), "epoch": 3}
    content |= {"field2id_token": tokens} if tokens else {}
    torch.save(content, path, pickle_protocol=4)  # as RecBole's trainer does
    if student == "lightgcn":
        users, items = facts(WORLD).edges
        edges = rows_of("user_id", tokens)[users], rows_of("item_id", tokens)[items]
        model.edges = torch.tensor(np.stack(edges))
    return model.double()


def ours(config, params, instances) -> np.ndarray:
    """The student's scores of all items, an instance a row."""
    graphdef = create_student(config, facts_of(config), 0)[0]
    longest, own_slot = window(config, MAX_SEQ_LEN), about(config.student).own_slot
    segments = instance_segments(HISTORIES, instances, longest, own_slot=own_slot)

    @jax.jit
    def scores(params, rows):
        student = nnx.merge(graphdef, nnx.State(params))
        return student.score(student.queries(rows), student.items())

    found = {}
    for rows in pack(HISTORIES, segments, 5, 13):
        ids, values = rows.instance_ids.reshape(-1), np.asarray(scores(params, rows))
        found |= {int(ids[slot]): values[slot] for slot in np.flatnonzero(ids >= 0)}
    return np.stack([found[int(instance)] for instance in instances])


def theirs(model, tokens, instances) -> np.ndarray:
    """RecBole's scores of the same instances, its rows put in the data set's order."""
    items, users = rows_of("item_id", tokens), rows_of("user_id", tokens)
    owners = HISTORIES.users[instances]
    starts = np.maximum(HISTORIES.indptr[owners], instances - MAX_SEQ_LEN)
    seq = torch.zeros(len(instances), MAX_SEQ_LEN, dtype=torch.long)
    for row, (first, end) in enumerate(zip(starts, instances, strict=True)):
        seq[row, : end - first] = torch.tensor(items[HISTORIES.items[first:end]])
    lengths = torch.tensor(instances - starts)
    with torch.no_grad():
        return model(seq, lengths, torch.tensor(users[owners])).numpy()[:, items]


@pytest.mark.parametrize("tokens", [{}, TOKENS], ids=["in order", "by tokens"])
@pytest.mark.parametrize("student", STUDENTS)
def test_recboles_model_gives_the_same_scores_here_and_comes_back(tmp_path, student, tokens):
    """Every matrix and every item's row finds its place, and all keys survive the way back."""
    config = config_of(student)
    model = saved(student, tmp_path / "model.pth", tokens)
    start = read_student_start(tmp_path / "model.pth", config, facts_of(config), WORLD)
    first_items = HISTORIES.indptr[HISTORIES.users]
    instances = np.flatnonzero(np.arange(len(HISTORIES.items)) > first_items)[::3]
    found, expected = ours(config, start.params, instances), theirs(model, tokens, instances)
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)

    before = {key: value.float() for key, value in model.state_dict().items()}
    after = to_recbole(start.params, config, WORLD, start.recbole)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)

    trained = jax.tree.map(lambda x: x + 1, start.params)
    after = to_recbole(trained, config, WORLD, start.recbole)
    for key, table in before.items():
        if key in ("item_embedding.weight", "user_embedding.weight"):
            known = rows_of("item_id" if key.startswith("item") else "user_id", tokens)
            known = {*known.tolist()} | ({len(table) - 1} if student == "bert4rec" else set())
            changed = torch.tensor([row in known for row in range(len(table))])
            assert torch.equal(after[key] - table > 0.5, changed[:, None].expand_as(table))


@pytest.mark.parametrize("student", STUDENTS)
def test_a_student_of_ours_is_written_in_recboles_numbering(tmp_path, student):
    """RecBole's model loads the file, its [PAD] row is zero, and we read it back bit by bit."""
    config = config_of(student)
    params = nnx.to_pure_dict(create_student(config, facts_of(config), 1)[1])
    weights = to_recbole(params, config, WORLD)
    assert not weights["item_embedding.weight"][0].any()
    model = MODELS[student](41, 61, MAX_SEQ_LEN)
    model.load_state_dict(weights)
    torch.save(weights, tmp_path / "alone.pth")
    again = read_student_start(tmp_path / "alone.pth", config, facts_of(config), WORLD).params
    assert same_bits(again, jax.tree.map(np.asarray, params))


def test_the_weights_pages_code_puts_ids_in_and_goes_back(tmp_path, monkeypatch):
    """Ids that aren't found where they are put, or a file that RecBole's own call can't read."""
    config, page = config_of("sasrec"), "docs/weights.md"
    saved("sasrec", tmp_path / "theirs.pth", {})
    known = {"item_id": ["[PAD]", *WORLD.item_ids[::-1]], "user_id": ["[PAD]", *WORLD.user_ids]}
    tokens = {field: np.array(ids) for field, ids in known.items()}
    dataset = SimpleNamespace(field2id_token=tokens, iid_field="item_id", uid_field="user_id")
    given = {"torch": torch, "dataset": dataset, "path": tmp_path / "theirs.pth"}
    exec(python_block(page, "weights_only=False"), given)
    start = read_student_start(tmp_path / "theirs.pth", config, facts_of(config), WORLD)
    theirs = given["checkpoint"]["state_dict"]["item_embedding.weight"]
    np.testing.assert_array_equal(start.params["item_embedding"]["table"], theirs.numpy()[:0:-1])

    weights = to_recbole(start.params, config, WORLD, start.recbole)
    torch.save({"state_dict": weights}, tmp_path / "recbole.pth")
    model = MODELS["sasrec"](41, 61, MAX_SEQ_LEN)
    monkeypatch.chdir(tmp_path)
    exec(python_block(page, "load_state_dict"), {"torch": torch, "model": model})
    assert torch.equal(
        model.state_dict()["item_embedding.weight"], weights["item_embedding.weight"]
    )


def test_what_does_not_fit_is_listed_at_once(tmp_path):
    """One line names missing layers and shapes of another catalogue."""
    saved("sasrec", tmp_path / "model.pth", {})
    config = config_of("sasrec", num_layers=3, inner_size=5)
    small = random_world(items=30)
    with pytest.raises(UserError) as error:
        read_student_start(tmp_path / "model.pth", config, facts(small, MAX_SEQ_LEN), small)
    for part in (
        f"{tmp_path / 'model.pth'}: found weights that don't fit (missing: trm_encoder.layer.2.",
        "trm_encoder.layer.0.feed_forward.dense_1.weight [10, 12] in place of [5, 12]",
        "item_embedding.weight [41, 12] in place of [31, 12]",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("student", "settings", "found"),
    [
        ("sasrec", {"n_heads": 1, "hidden_act": "relu"},
         f"n_heads=1 in place of {HEADS} (--num_heads), hidden_act=relu in place of gelu"),
        ("bert4rec", {"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05 in place of 1e-12"),
        ("lightgcn", {"n_layers": 9, "n_heads": 9},
         f"n_layers=9 in place of {LAYERS} (--num_layers)"),
    ],
)  # fmt: skip
def test_what_shapes_do_not_tell_is_compared(tmp_path, student, settings, found):
    """Other heads, another activation or another depth are refused."""
    model, config = saved(student, tmp_path / "model.pth", {}), config_of(student)
    for values in (settings, {}):
        content = {"state_dict": model.float().state_dict(), "config": values}
        torch.save(content, tmp_path / "model.pth")
        if values:
            with pytest.raises(UserError) as error:
                read_student_start(tmp_path / "model.pth", config, facts_of(config), WORLD)
            assert f"model.pth: config: found {found}, expected" in str(error.value)
        else:
            read_student_start(tmp_path / "model.pth", config, facts_of(config), WORLD)


def test_items_that_the_file_lacks_are_told(tmp_path):
    """A catalogue item that isn't in the file is refused and never gets another one's vector."""
    tokens = {**TOKENS, "item_id": [t for t in TOKENS["item_id"] if t not in ("i7", "i9")]}
    model = MODELS["gru4rec"](len(tokens["item_id"]), 0, MAX_SEQ_LEN)
    content = {"state_dict": model.state_dict(), "field2id_token": tokens}
    torch.save(content, tmp_path / "model.pth")
    config = config_of("gru4rec")
    with pytest.raises(UserError, match="item_id: found no 'i7' \\(2 missing of 40\\)"):
        read_student_start(tmp_path / "model.pth", config, facts_of(config), WORLD)


def test_students_that_recbole_lacks_are_told(tmp_path):
    """Reading and exporting such a student both end in one line that lists the possible ones."""
    config = config_of("fm")
    saved("gru4rec", tmp_path / "model.pth", {})
    with pytest.raises(UserError, match="found fm, expected one of sasrec, gru4rec, "):
        read_student_start(tmp_path / "model.pth", config, facts_of(config), WORLD)
    with pytest.raises(UserError, match="--export_recbole: found fm, expected one of"):
        to_recbole({}, config, WORLD)


def test_positions_that_recbole_lacks_are_told(tmp_path):
    """A table of positions isn't read backwards, in neither direction."""
    config = dataclasses.replace(config_of("sasrec"), positions="newest")
    saved("sasrec", tmp_path / "model.pth", {})
    told = "found --positions=newest, expected oldest, RecBole's form"
    with pytest.raises(UserError, match=told):
        read_student_start(tmp_path / "model.pth", config, facts_of(config), WORLD)
    with pytest.raises(UserError, match=f"--export_recbole: {told}"):
        to_recbole({}, config, WORLD)


def test_parameters_without_a_counterpart_are_told():
    """A parameter that RecBole's model lacks is refused and never dropped in silence."""
    assert recbole_keys("sasrec", "final_norm.scale") == ()
    config = config_of("gru4rec")
    params = nnx.to_pure_dict(create_student(config, facts_of(config), 1)[1])
    with pytest.raises(UserError, match=r"found a gru4rec with extra\.scale, expected RecBole's"):
        to_recbole({**params, "extra": {"scale": np.ones(3)}}, config, WORLD)


@pytest.mark.parametrize("path", ["exported", "exported/weights.safetensors"])
def test_an_exported_student_is_a_start_too(tmp_path, path):
    """Our own format starts a student, by its folder or by its weights file, bit by bit."""
    config = config_of("fm")
    params = nnx.to_pure_dict(create_student(config, facts_of(config), 1)[1])
    export_student(tmp_path / "exported", params, config, facts_of(config), WORLD)
    start = read_student_start(tmp_path / path, config, facts_of(config), WORLD)
    assert start.recbole is None
    assert same_bits(flatten_params(start.params), flatten_params(params))


def test_another_file_beside_an_export_is_refused(tmp_path):
    """The weights that were named are never replaced by those of the folder."""
    config = config_of("gru4rec")
    params = nnx.to_pure_dict(create_student(config, facts_of(config), 3)[1])
    export_student(tmp_path, params, config, facts_of(config), WORLD)
    (tmp_path / "epoch2.safetensors").write_bytes((tmp_path / "weights.safetensors").read_bytes())
    with pytest.raises(
        UserError, match=r"epoch2\.safetensors, expected weights\.safetensors or its"
    ):
        read_student_start(tmp_path / "epoch2.safetensors", config, facts_of(config), WORLD)
