"""Against the official formulas, typed once more in float64 in the official classes' own form."""

import enum
import io
import os
import pickle
import sys
import types
import zipfile

import pytest
import torch
import torch.nn.functional as F

from prmkd_jax.common.errors import UserError
from teachers_torch.config import PretrainConfig, UniSRecConfig
from teachers_torch.recbole_file import read_recbole
from teachers_torch.sequence.official import (
    from_official,
    official_pretrain_loss,
    official_scores,
    official_tuning_loss,
    to_official,
    write_official,
)
from tests.pages import python_block

ROWS, TEXT, WIDTH, INNER, LENGTH, LAYERS, EXPERTS = 9, 6, 8, 5, 5, 2, 3
SEQ = torch.tensor([[3, 1, 4, 1, 5], [2, 6, 0, 0, 0], [8, 0, 0, 0, 0], [7, 2, 3, 0, 0]])
LENGTHS, TARGETS = torch.tensor([5, 2, 1, 3]), torch.tensor([2, 5, 2, 8])
AUGMENTED = torch.tensor([[3, 4, 5, 0, 0], [6, 0, 0, 0, 0], [8, 0, 0, 0, 0], [7, 3, 0, 0, 0]])
AUGMENTED_LENGTHS = torch.tensor([3, 1, 1, 2])


def random_state(ids: bool = False) -> dict[str, torch.Tensor]:
    """Official keys with values that all matter."""
    shapes = {"position_embedding.weight": (LENGTH, WIDTH)}
    shapes |= {"LayerNorm.weight": (WIDTH,), "LayerNorm.bias": (WIDTH,)}
    for layer in range(LAYERS):
        attention = f"trm_encoder.layer.{layer}.multi_head_attention"
        feed_forward = f"trm_encoder.layer.{layer}.feed_forward"
        for part in ("query", "key", "value", "dense"):
            shapes |= {f"{attention}.{part}.weight": (WIDTH, WIDTH)}
            shapes |= {f"{attention}.{part}.bias": (WIDTH,)}
        shapes |= {f"{feed_forward}.dense_1.weight": (INNER, WIDTH)}
        shapes |= {f"{feed_forward}.dense_1.bias": (INNER,)}
        shapes |= {f"{feed_forward}.dense_2.weight": (WIDTH, INNER)}
        shapes |= {f"{feed_forward}.dense_2.bias": (WIDTH,)}
        for part in (attention, feed_forward):
            shapes |= {f"{part}.LayerNorm.weight": (WIDTH,), f"{part}.LayerNorm.bias": (WIDTH,)}
    shapes |= {f"moe_adaptor.{gate}": (TEXT, EXPERTS) for gate in ("w_gate", "w_noise")}
    for expert in range(EXPERTS):
        shapes |= {f"moe_adaptor.experts.{expert}.bias": (TEXT,)}
        shapes |= {f"moe_adaptor.experts.{expert}.lin.weight": (WIDTH, TEXT)}
    if ids:
        shapes |= {"item_embedding.weight": (ROWS, WIDTH)}
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) * 0.5 for key, shape in shapes.items()}


@pytest.fixture
def table():
    rows = torch.randn(ROWS, TEXT, generator=torch.Generator().manual_seed(1))
    rows[0] = 0
    return rows


class Reference:
    """The official model in float64, its masks additive, its experts one after the other."""

    def __init__(self, state, table):
        self.w = {key: value.double().requires_grad_() for key, value in state.items()}
        self.table = table.double()

    def adapt(self, x):
        """Gated experts."""
        gates = (x @ self.w["moe_adaptor.w_gate"]).softmax(-1)
        parts = [
            (x - self.w[f"moe_adaptor.experts.{e}.bias"])
            @ self.w[f"moe_adaptor.experts.{e}.lin.weight"].T
            for e in range(EXPERTS)
        ]
        return sum(gates[..., e : e + 1] * parts[e] for e in range(EXPERTS))

    def dense(self, x, name):
        """A linear layer."""
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x, name):
        """A LayerNorm."""
        return F.layer_norm(
            x, (WIDTH,), self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps=1e-12
        )

    def encode(self, seq, lengths):
        """Normalised sequence vectors."""
        x = self.adapt(self.table[seq]) + self.w["position_embedding.weight"][: seq.shape[1]]
        if "item_embedding.weight" in self.w:
            x = x + F.embedding(seq, self.w["item_embedding.weight"], padding_idx=0)
        x = self.norm(x, "LayerNorm")
        mask = ((seq != 0)[:, None, None, :] & torch.ones(LENGTH, LENGTH).tril().bool()).double()
        mask = (1 - mask) * -10000.0
        for layer in range(LAYERS):
            name = f"trm_encoder.layer.{layer}.multi_head_attention"
            query, key, value = (
                self.dense(x, f"{name}.{part}").view(*seq.shape, 2, -1).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            weights = (query @ key.transpose(2, 3) / (WIDTH / 2) ** 0.5 + mask).softmax(-1)
            attended = (weights @ value).transpose(1, 2).reshape(*seq.shape, WIDTH)
            x = self.norm(self.dense(attended, f"{name}.dense") + x, f"{name}.LayerNorm")
            name = f"trm_encoder.layer.{layer}.feed_forward"
            inner = F.gelu(self.dense(x, f"{name}.dense_1"))
            x = self.norm(self.dense(inner, f"{name}.dense_2") + x, f"{name}.LayerNorm")
        return F.normalize(x[torch.arange(len(seq)), lengths - 1], dim=1)

    def candidates(self):
        """Normalised table, [PAD] first."""
        items = self.adapt(self.table)
        return F.normalize(items + self.w.get("item_embedding.weight", 0), dim=1)

    def tuning_loss(self):
        """Cross-entropy over all rows."""
        logits = self.encode(SEQ, LENGTHS) @ self.candidates().T / 0.07
        return F.cross_entropy(logits, TARGETS)

    def pretrain_loss(self):
        """Both contrastive losses."""
        sequences = self.encode(SEQ, LENGTHS)
        targets = F.normalize(self.adapt(self.table[TARGETS]), dim=1)
        total = 0.0
        for weight, keys in (
            (1.0, targets),
            (1e-3, self.encode(AUGMENTED, AUGMENTED_LENGTHS)),
        ):
            same = (TARGETS[:, None] == TARGETS[None]) ^ torch.eye(len(TARGETS)).bool()
            positive = torch.exp((sequences * keys).sum(1) / 0.07)
            logits = torch.where(same, torch.zeros(()).double(), sequences @ keys.T / 0.07)
            total = total - weight * torch.log(positive / logits.exp().sum(1)).mean()
        return total


def assert_same(loss, reference_loss, model, reference):
    """The same number and the same gradient of every weight, to 1e-5."""
    assert float(loss.detach()) == pytest.approx(float(reference_loss.detach()), rel=1e-5)
    loss.backward()
    reference_loss.backward()
    for name, parameter in model.named_parameters():
        expected = reference.w[name].grad
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected = torch.zeros_like(found) if expected is None else expected.float()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("ids", [False, True], ids=["inductive", "transductive"])
def test_tuning_loss_gradients_and_scores_are_the_official_ones(table, ids):
    """They agree with and without item ids, and [PAD] takes part in the softmax."""
    state = random_state(ids)
    model, reference = from_official(state, table), Reference(state, table)
    with torch.no_grad():
        expected = reference.encode(SEQ, LENGTHS) @ reference.candidates().T
    found = official_scores(model, SEQ, LENGTHS)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)
    loss = official_tuning_loss(model, SEQ, LENGTHS, TARGETS)
    assert_same(loss, reference.tuning_loss(), model, reference)


def test_pretrain_loss_and_gradients_are_the_official_ones(table):
    """With duplicates left out instead of counted as zero, the loss is smaller."""
    state = random_state()
    model, reference = from_official(state, table), Reference(state, table)
    loss = official_pretrain_loss(model, SEQ, LENGTHS, TARGETS, AUGMENTED, AUGMENTED_LENGTHS)
    assert_same(loss, reference.pretrain_loss(), model, reference)
    other = PretrainConfig(duplicates="left_out")
    arguments = (SEQ, LENGTHS, TARGETS, AUGMENTED, AUGMENTED_LENGTHS, other)
    assert float(official_pretrain_loss(model, *arguments).detach()) < float(loss.detach())


def test_the_teachers_pages_code_reads_scores_and_writes(tmp_path, table):
    """A name, an argument or their order of before."""
    state = random_state()
    torch.save({"state_dict": state}, tmp_path / "theirs.pth")
    batch = {"item_seq": SEQ, "lengths": LENGTHS, "targets": TARGETS, "text_vectors": table}
    batch |= {"augmented_seq": AUGMENTED, "augmented_lengths": AUGMENTED_LENGTHS}
    paths = {"path": tmp_path / "theirs.pth", "new_path": tmp_path / "ours.pth"}
    exec(python_block("docs/teachers.md", "official_scores"), {**batch, **paths})
    written = read_recbole(tmp_path / "ours.pth").weights
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)


def test_pad_class_can_be_left_out(table):
    """With pad_class=False, the loss of loaded weights is over the items alone."""
    state = random_state()
    reference = Reference(state, table)
    logits = reference.encode(SEQ, LENGTHS) @ reference.candidates()[1:].T / 0.07
    expected = float(F.cross_entropy(logits, TARGETS - 1).detach())
    model = from_official(state, table, UniSRecConfig(pad_class=False))
    found = official_tuning_loss(model, SEQ, LENGTHS, TARGETS)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


class Config:
    """Stands for recbole.config.configurator.Config while the file is written."""

    def __init__(self):
        self.final_config_dict = {"lambda": 1e-3, "loader": Loader, "kind": Kind.SEQUENTIAL}
        self.final_config_dict["written by Python 3.11.2"] = ByName()


class Loader:
    """Stands for a class that the configuration holds."""


class Kind(enum.Enum):
    """Stands for recbole.utils.enum_type.ModelType."""

    SEQUENTIAL = 1


class ByName:
    """Is written as a member of an enumeration is by some Pythons, whichever runs this."""

    def __reduce__(self):
        return getattr, (Kind, "SEQUENTIAL")


Kind.__module__, Kind.__qualname__ = "recbole.utils.enum_type", "ModelType"
Config.__module__, Config.__qualname__ = "recbole.config.configurator", "Config"
Loader.__module__, Loader.__qualname__ = "yaml.loader", "FullLoader"


@pytest.fixture
def recbole(monkeypatch):
    """Makes the names importable, for the writing alone."""
    for made in (Config, Loader, Kind):
        parts = made.__module__.split(".")
        names = [".".join(parts[: end + 1]) for end in range(len(parts))]
        for name in names:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        setattr(sys.modules[names[-1]], made.__qualname__, made)
    return monkeypatch


@pytest.mark.parametrize("protocol", [2, 4])  # torch.save's own, and RecBole's since 1.1
def test_official_file_is_read_without_recbole(tmp_path, table, recbole, protocol):
    """Its configuration needs no class of RecBole, and its weights come back unchanged."""
    state = random_state(ids=True) | {"plm_embedding.weight": table}
    state["LayerNorm.weight"] = torch.nn.Parameter(state["LayerNorm.weight"])
    content = {"config": Config(), "epoch": 300, "state_dict": state, "optimizer": {"state": {}}}
    content["other_parameter"] = {"seen": {1}, "device": torch.device("cpu"), "type": torch.half}
    torch.save(content, tmp_path / "official.pth", pickle_protocol=protocol)
    recbole.undo()
    assert read_recbole(tmp_path / "official.pth").settings == {"lambda": 1e-3}
    found = read_recbole(tmp_path / "official.pth").weights
    assert set(found) == set(state)
    assert all(torch.equal(found[key], state[key]) for key in state)
    again = to_official(from_official(found))
    assert set(again) == set(state)
    assert all(torch.equal(again[key], state[key]) for key in state)


def test_written_file_is_what_the_official_tuning_reads(tmp_path, table):
    """The catalogue's own tables are left out, and the file names the data set."""
    state = random_state()
    model = from_official(state | {"item_embedding.weight": torch.zeros(ROWS, WIDTH)}, table)
    write_official(model, tmp_path / "ours.pth", "Garden")
    content = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert content["config"]["dataset"] == "Garden"
    assert set(content["state_dict"]) == set(state)
    assert all(torch.equal(content["state_dict"][key], state[key]) for key in state)


class Malice:
    """Runs a command when it is unpickled by a reader that lets it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_a_malicious_file_runs_nothing(tmp_path, protocol):
    """The file is refused, and the command in its pickle leaves no trace."""
    path, evidence = tmp_path / "evil.pth", tmp_path / "evidence"
    content = {"config": Malice(evidence), "state_dict": random_state()}
    if protocol is None:
        path.write_bytes(pickle.dumps({"state_dict": Malice(evidence)}))
        message = "no checkpoint of torch.save"
    else:
        torch.save(content, path, pickle_protocol=protocol)
        assert zipfile.is_zipfile(path)
        message = "mkdir, which no checkpoint needs"
    with pytest.raises(UserError, match=message):
        read_recbole(path)
    assert not evidence.exists()


def test_a_file_changes_nothing_of_torchs(tmp_path):
    """A pickle that sets a function's default arguments is refused and sets nothing."""
    name = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
    attack = name + b"(N}X\x0c\x00\x00\x00__defaults__(K\x07tstb."
    with zipfile.ZipFile(tmp_path / "evil.pth", "w") as archive:
        archive.writestr("evil/data.pkl", attack)
        archive.writestr("evil/version", "3")
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(UserError, match="sets attributes of what has none"):
        read_recbole(tmp_path / "evil.pth")
    assert torch._utils._rebuild_tensor_v2.__defaults__ is before
    unguarded = types.FunctionType(torch._utils._rebuild_tensor_v2.__code__, {}, "rebuild")
    loader = type("Loader", (pickle.Unpickler,), {"find_class": lambda *_: unguarded})
    loader(io.BytesIO(attack)).load()
    assert unguarded.__defaults__ == (7,)  # so the attack is one


@pytest.mark.parametrize(
    ("content", "message"),
    [({"state_dict": {"a": 1}}, "found no tensor at"), ({"epoch": 1}, "found no readable state")],
)
def test_files_without_weights_are_refused(tmp_path, content, message):
    """Such a file is a UserError, not a KeyError or an empty model."""
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=message):
        read_recbole(tmp_path / "file.pth")


def test_all_wrong_keys_are_listed_at_once(table):
    """Missing, surplus and misshapen keys stand in one line."""
    state = random_state()
    del state["LayerNorm.bias"], state["moe_adaptor.w_noise"]
    state |= {"extra.weight": torch.zeros(1), "LayerNorm.weight": torch.zeros(3)}
    with pytest.raises(UserError) as caught:
        from_official(state, table)
    for part in (
        "missing: LayerNorm.bias, moe_adaptor.w_noise",
        "surplus: extra.weight",
        "of another shape: LayerNorm.weight [3] in place of [8]",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"found no plm_embedding\.weight"):
        from_official(state)
    with pytest.raises(UserError, match="expected a UniSRec checkpoint"):
        from_official({"a": torch.zeros(2, 2)}, table)


def test_pad_row_of_the_table_is_kept(table):
    """A [PAD] vector that isn't zero comes back unchanged."""
    table[0] = 1.0
    model = from_official(random_state(), table)
    assert torch.equal(to_official(model)["plm_embedding.weight"], table)
