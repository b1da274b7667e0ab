"""Who is measured by `bench --suite=peers`, and which of our students beside each."""

from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
_SOFTMAX = "--loss=softmax"
_PAIRS = "--loss=bpr"


class Contender(NamedTuple):
    """A model in another library.

    Attributes:
        label: the contender's name in the table.
        driver: the module of this folder that runs it.
        model: the model's name for the driver.
        ours: flags of our student that learns by the same loss.
        requirements: file of this folder with its environment's pins; "" for our environment.
        taught: whether both learn from teachers.
    """

    label: str
    driver: str
    model: str
    ours: tuple[str, ...]
    requirements: str = ""
    taught: bool = False


def _recbole(model: str, student: str, loss: str) -> Contender:
    ours = f"--student={student}", loss
    return Contender(f"RecBole {model}", "recbole_driver", model, ours, "recbole.txt")


_SASREC = ("--student=sasrec", _SOFTMAX)
CONTENDERS = {
    "packed": Contender("packed PyTorch SASRec", "packed_driver", "SASRec", _SASREC),
    "packed-prmkd": Contender(
        "packed PyTorch PRM-KD", "packed_driver", "SASRec", _SASREC, taught=True
    ),
    "recbole-sasrec": _recbole("SASRec", "sasrec", _SOFTMAX),
    "recbole-gru4rec": _recbole("GRU4Rec", "gru4rec", _SOFTMAX),
    "recbole-bert4rec": _recbole("BERT4Rec", "bert4rec", _SOFTMAX),
    "recbole-fm": _recbole("FM", "fm", _PAIRS),
    "recbole-deepfm": _recbole("DeepFM", "deepfm", _PAIRS),
    "recbole-lightgcn": _recbole("LightGCN", "lightgcn", _PAIRS),
    "rectools": Contender("RecTools SASRec", "rectools_driver", "SASRec", _SASREC, "rectools.txt"),
    "rectools-fast": Contender(
        "RecTools fast_transformers",
        "rectools_driver",
        "fast_transformers",
        _SASREC,
        "rectools.txt",
    ),
    "replay": Contender("RePlay SASRec", "replay_driver", "SASRec", _SASREC, "replay.txt"),
}
"""Choices of `--peers`."""
