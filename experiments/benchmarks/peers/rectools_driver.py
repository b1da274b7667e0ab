"""RecTools' SASRec as a peer, by its model or by `fast_transformers`; runs in its environment.

`fast_transformers` has the network and the batches of a SASRec and no trainer for it, so its loop
is written here. It imports nothing of ours but the protocol, which lies beside it.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import copy
import importlib.metadata
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from protocol import Clocked, EpochClock, Settings, Timed, drive, metrics_of
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.fast_transformers import FlatSASRecNet, SequenceBatchDataset, build_sequences
from rectools.models import SASRecModel
from torch.utils.data import DataLoader

_RANKED = 256


class LightningClock(EpochClock, Callback):
    """Lightning asks callbacks of its own class alone."""


class RecTools:
    """RecTools' SASRecModel, trained an epoch at a time by `fit_partial`."""

    def __init__(self, settings: Settings):
        self._parts = _parts(settings)
        history, _ = self._parts["validation"]
        self._data = {name: Dataset.construct(rows) for name, (rows, _) in self._parts.items()}
        torch.manual_seed(settings["seed"])
        self._model = SASRecModel(
            n_blocks=settings["num_layers"],
            n_heads=settings["num_heads"],
            n_factors=settings["hidden_size"],
            dropout_rate=settings["dropout"],
            session_max_len=settings["window"],
            batch_size=settings["sequences"],
            loss="softmax",
            lr=settings["learning_rate"],
            recommend_batch_size=_RANKED,
            get_trainer_func=_trainer,
        )
        self._train = Dataset.construct(history)
        self._kept: Any = None

    def epoch(self, most: float) -> Timed:
        """See `protocol.Peer`."""
        clocks = (self._model.fit_trainer or self._model._trainer).callbacks
        next(each for each in clocks if isinstance(each, LightningClock)).most = most
        self._model.fit_partial(self._train, min_epochs=1, max_epochs=1)
        clock = next(
            each for each in self._model.fit_trainer.callbacks if isinstance(each, LightningClock)
        )
        return Timed(clock.seconds, clock.done / clock.total, int(clock.total))

    def rank(self, part: str, most: float) -> tuple[Timed, dict[str, float]]:
        """See `protocol.Peer`; its ten best items of all users, never stopped."""
        _, targets = self._parts[part]
        started = time.perf_counter()
        found = self._model.recommend(
            users=targets.index.to_numpy(), dataset=self._data[part], k=10, filter_viewed=False
        )
        seconds = time.perf_counter() - started
        hits = found[found[Columns.Item].to_numpy() == targets[found[Columns.User]].to_numpy()]
        ranks = targets.astype(float) * 0 + np.inf
        ranks[hits[Columns.User]] = hits[Columns.Rank].to_numpy(dtype=float) - 1
        return Timed(seconds, 1.0, 1), metrics_of(ranks)

    def keep(self) -> None:
        """See `protocol.Peer`."""
        self._kept = copy.deepcopy(self._model.lightning_model.state_dict())

    def restore(self) -> None:
        """See `protocol.Peer`."""
        self._model.lightning_model.load_state_dict(self._kept)


def _trainer() -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LightningClock()],
    )


class Flat:
    """RecTools' `fast_transformers`: FlatSASRecNet and SequenceBatchDataset."""

    def __init__(self, settings: Settings):
        self._parts = _parts(settings)
        torch.manual_seed(settings["seed"])
        self._window = settings["window"]
        self.net = FlatSASRecNet(
            n_items=settings["items"],
            n_factors=settings["hidden_size"],
            n_blocks=settings["num_layers"],
            n_heads=settings["num_heads"],
            session_max_len=self._window,
            dropout=settings["dropout"],
        )
        history, _ = self._parts["validation"]
        self._loader = DataLoader(
            _sequences(history, self._window),
            batch_size=settings["sequences"],
            shuffle=True,
        )
        self._optimizer = torch.optim.Adam(self.net.parameters(), lr=settings["learning_rate"])
        self._kept: Any = None

    def epoch(self, most: float) -> Timed:
        """See `protocol.Peer`."""
        started = time.perf_counter()
        clock = Clocked(len(self._loader), most)
        self.net.train()
        for batch in clock(self._loader):
            logits = self.net(batch)
            wanted = batch["y"].reshape(-1) - 1  # −1 is padding
            loss = torch.nn.functional.cross_entropy(
                logits.reshape(len(wanted), -1), wanted, ignore_index=-1
            )
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        return clock.timed(time.perf_counter() - started)

    @torch.inference_mode()
    def rank(self, part: str, most: float) -> tuple[Timed, dict[str, float]]:
        """See `protocol.Peer`; never stopped."""
        history, targets = self._parts[part]
        started = time.perf_counter()
        self.net.eval()
        rows = _padded(history, targets.index, self._window)
        ranks = []
        items = self.net.all_item_embeddings()
        for first in range(0, len(rows), _RANKED):
            block = slice(first, first + _RANKED)
            scores = self.net.encode_last(torch.from_numpy(rows[block])) @ items.T
            wanted = torch.from_numpy(targets.to_numpy()[block])[:, None]
            ranks += (scores > scores.gather(1, wanted)).sum(1).tolist()
        return Timed(time.perf_counter() - started, 1.0, 1), metrics_of(ranks)

    def keep(self) -> None:
        """See `protocol.Peer`."""
        self._kept = copy.deepcopy(self.net.state_dict())

    def restore(self) -> None:
        """See `protocol.Peer`."""
        self.net.load_state_dict(self._kept)


def _parts(settings: Settings) -> dict[str, tuple[pd.DataFrame, pd.Series]]:
    """Part → what is read of all users before it, in RecTools' columns, and their targets."""
    path = Path(settings["data"]) / "peers" / "peers.inter"
    rows = pd.read_csv(path, sep="\t").set_axis(["user_id", "item_id", "place"], axis=1)
    rows = rows.sort_values(["user_id", "place"], ignore_index=True)
    rows["weight"] = 1.0
    rows["datetime"] = rows["place"].mul(10**9).astype("datetime64[ns]")
    left = rows.groupby("user_id").cumcount(ascending=False)
    columns = ["user_id", "item_id", "weight", "datetime"]
    return {
        part: (
            pd.DataFrame(rows.loc[left > asked, columns]),
            pd.Series(rows[left == asked].set_index("user_id")["item_id"]),
        )
        for part, asked in (("validation", 1), ("test", 0))
    }


def _sequences(history: pd.DataFrame, window: int) -> SequenceBatchDataset:
    """Their batches, with items numbered as in the data, from 1 on."""
    columns = (torch.from_numpy(history[c].to_numpy()) for c in ("user_id", "item_id"))
    order = torch.arange(len(history))
    x, y, known, _ = build_sequences(*columns, order, window)
    number = torch.cat([torch.zeros(1, dtype=torch.long), known + 1])
    return SequenceBatchDataset(number[x], number[y])


def _padded(history: pd.DataFrame, users: pd.Index, window: int) -> np.ndarray:
    """The users' last items, padded on the left with 0."""
    items = history.groupby("user_id")["item_id"].apply(np.asarray)
    rows = np.zeros((len(users), window), dtype=np.int64)
    for row, user in enumerate(users):
        read = items[user][-window:] + 1
        rows[row, window - len(read) :] = read
    return rows


def make(settings: Settings) -> RecTools | Flat:
    """The variant that `model` names."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    return {"SASRec": RecTools, "fast_transformers": Flat}[settings["model"]](settings)


def versions() -> dict[str, str]:
    """Of what computes."""
    return {name: importlib.metadata.version(name) for name in ("rectools", "torch", "numpy")}


if __name__ == "__main__":
    drive(make, versions)
