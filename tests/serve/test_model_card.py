"""The model card of an artefact: what the student's own card tells."""

from prmkd_jax.serve.model_card import model_card

METRICS = {"Recall@10": 0.1198, "NDCG@10": 0.068}
RECORD = {
    "seed": 3,
    "validation": {"Recall@10": 0.13, "NDCG@10": 0.07},
    "test": METRICS,
    "test_masked": None,
    "best_epoch": 4,
    "epochs": 9,
    "method": {"name": "prmkd", "label": "PRM-KD"},
    "teachers": {
        "unisrec": {
            "label": "UniSRec",
            "start": "random",
            "seed": 1,
            "parameters": 12,
            "validation": METRICS,
            "test": {"Recall@10": 0.11, "NDCG@10": 0.06},
        }
    },
    "teacher_weights": {"unisrec": 1.0},
    "settings": {"learning_rate": 0.001},
    "data": {
        "users": 5,
        "items": 4,
        "interactions": 20,
        "average_length": 4.0,
        "cold_targets": 2,
    },
    "split": {"name": "leave_one_out", "train": 10, "validation": 5, "test": 5},
    "remarks": [{"name": "users with one item", "number": 1, "of": 5, "warning": "too short"}],
    "license": None,
}
CARD = {
    "label": "SASRec",
    "config": {"hidden_size": 8},
    "dataset": {"name": "mine", "fingerprint": "f00"},
    "facts": {"items": 4},
    "record": RECORD,
}
INTERFACE = {"users": 0, "window": 50, "formats": ["onnx"], "jax": "1", "license": ""}


def test_a_card_tells_figures_teachers_data_and_limits():
    """Each figure has its seed and part, and the title names the distillation."""
    text = model_card(CARD, INTERFACE)
    assert text.startswith("# PRM-KD (SASRec) on mine\n")
    for line in (
        "| trained | with PRM-KD |",
        "| licence of the weights | not stated |",
        "| | Recall@10 | NDCG@10 |",
        "| SASRec, seed 3, validation | 0.1300 | 0.0700 |",
        "| SASRec, seed 3, test | 0.1198 | 0.0680 |",
        "| teacher UniSRec, seed 1, test | 0.1100 | 0.0600 |",
        "- 5 users, 4 items, 20 interactions, 4.00 a user",
        "- 2 test targets never occur in training",
        "- The data: users with one item: 1: too short",
        ' "hidden_size": 8,',
        ' "learning_rate": 0.001',
    ):
        assert line in text.splitlines()
    assert "test without" not in text
    assert "UniSRec: weight 1.000, started from random, 12 parameters" in text
    assert "Epoch 4 of 9 was kept" in text
    licensed = model_card(CARD, {**INTERFACE, "license": "MIT"})
    assert "| licence of the weights | MIT |" in licensed


def test_a_card_without_a_record_says_so():
    """The training is called not known, and figures and teachers are left out."""
    text = model_card({**CARD, "record": {}}, INTERFACE)
    assert text.startswith("# SASRec on mine\n")
    assert "| trained | not known |" in text
    assert "The student's own card holds no figures." in text
    assert "## Teachers" not in text


def test_a_student_alone_is_told_from_a_distilled_one():
    """The title is the student's name, and a row says that it was trained alone."""
    text = model_card({**CARD, "record": {**RECORD, "method": None, "teachers": {}}}, INTERFACE)
    assert text.startswith("# SASRec on mine\n")
    assert "| trained | alone |" in text


def test_settings_and_teachers_may_be_null():
    """A card with null in their place is shown without a section on teachers."""
    text = model_card({**CARD, "record": {**RECORD, "settings": None, "teachers": None}}, INTERFACE)
    assert "## Teachers" not in text
    assert ' "hidden_size": 8' in text.splitlines()
