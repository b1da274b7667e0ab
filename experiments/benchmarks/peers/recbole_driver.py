"""RecBole's models, data and trainer as a peer; runs in RecBole's environment.

Its own defaults hold for all that isn't given below, threads too. It imports nothing of ours but
the protocol, which lies beside it.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import copy
import importlib.metadata
import logging
import time
import warnings
from typing import Any

import torch
from protocol import METRIC, Clocked, Settings, Timed, drive
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

_SEQUENTIAL = ("SASRec", "GRU4Rec", "BERT4Rec")
_PAIRS = ("FM", "DeepFM")
# Users ranked at once where a batch is counted in pairs of user and item. By default it is one.
_USERS, _USERS_OF_PAIRS = 256, 16


class RecBole:
    """A model of RecBole's, trained and ranked by its own trainer."""

    def __init__(self, settings: Settings):
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
        config = Config(model=settings["model"], dataset="peers", config_dict=_config(settings))
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train, *self._rest = data_preparation(config, dataset)
        self._train = _clockable(train)
        self._rest = [_clockable(loader) for loader in self._rest]
        self.model = get_model(config["model"])(config, self._train.dataset).to(config["device"])
        self._trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, self.model)
        self._trainer.eval_collector.data_collect(self._train)
        self._epoch = 0
        self._kept: Any = None

    def epoch(self, most: float) -> Timed:
        """See `protocol.Peer`."""
        started = time.perf_counter()
        self._train.clock = Clocked(len(self._train), most)
        self._trainer._train_epoch(self._train, self._epoch)
        self._epoch += 1
        return self._train.clock.timed(time.perf_counter() - started)

    def rank(self, part: str, most: float) -> tuple[Timed, dict[str, float]]:
        """See `protocol.Peer`."""
        loader = self._rest[part == "test"]
        loader.clock = Clocked(len(loader), most)
        started = time.perf_counter()
        with torch.no_grad():
            found = self._trainer.evaluate(loader, load_best_model=False)
        seconds = time.perf_counter() - started
        metrics = {"Recall@10": found["recall@10"], METRIC: found["ndcg@10"]}
        return loader.clock.timed(seconds), {name: float(x) for name, x in metrics.items()}

    def keep(self) -> None:
        """See `protocol.Peer`."""
        self._kept = copy.deepcopy(self.model.state_dict())

    def restore(self) -> None:
        """See `protocol.Peer`."""
        self.model.load_state_dict(self._kept)


def _clockable(loader: Any) -> Any:
    """A loader of RecBole's, which knows loaders by their class, that stops by its `clock`."""

    def batches(self: Any) -> Any:
        return self.clock(kind.__iter__(self))

    kind = type(loader)
    loader.__class__ = type(f"Clocked{kind.__name__}", (kind,), {"__iter__": batches})
    return loader


def _config(settings: Settings) -> dict[str, object]:
    """RecBole's names of the settings."""
    model, width = settings["model"], settings["hidden_size"]
    pairs = model in _PAIRS
    return {
        "data_path": settings["data"],
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "MAX_ITEM_LIST_LENGTH": settings["window"],
        "hidden_size": width,
        "embedding_size": width,
        "inner_size": settings["inner_size"],
        "n_layers": settings["num_layers"],
        "num_layers": settings["num_layers"],
        "n_heads": settings["num_heads"],
        "hidden_dropout_prob": settings["dropout"],
        "attn_dropout_prob": settings["dropout"],
        "dropout_prob": settings["dropout"],
        "mlp_hidden_size": settings["mlp_sizes"],
        # Where a target comes with a drawn item, RecBole counts both in the batch.
        "train_batch_size": settings["batch_size"] * (1 + pairs),
        "learning_rate": settings["learning_rate"],
        "weight_decay": settings["weight_decay"],
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": "user",
            "mode": "full",
        },
        "metrics": ["Recall", "NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
        "seed": settings["seed"],
        "checkpoint_dir": settings["data"],
        **_drawing(model, settings["items"]),
    }


def _drawing(model: str, items: int) -> dict[str, object]:
    """What a target is compared with, in training and ranking, as RecBole names it."""
    if model in _SEQUENTIAL:
        return {"loss_type": "CE", "train_neg_sample_args": None}
    users = _USERS_OF_PAIRS if model in _PAIRS else _USERS
    return {
        "eval_batch_size": users * (items + 1),
        "train_neg_sample_args": {
            "distribution": "uniform",
            "sample_num": 1,
            "alpha": 1.0,
            "dynamic": False,
            "candidate_num": 0,
        },
    }


def versions() -> dict[str, str]:
    """Of what computes."""
    return {name: importlib.metadata.version(name) for name in ("recbole", "torch", "numpy")}


if __name__ == "__main__":
    drive(RecBole, versions)
