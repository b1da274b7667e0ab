"""RePlay's SASRec as a peer; runs in RePlay's environment.

It imports nothing of ours but the protocol, which lies beside it.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import copy
import importlib.metadata
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import torch
from protocol import EpochClock, Settings, Timed, drive, metrics_of
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.sequential.sasrec import SasRec
from replay.nn.transform.template import make_default_sasrec_transforms

_RANKED = 256


class LightningClock(EpochClock, lightning.Callback):
    """Lightning asks callbacks of its own class alone."""


class RePlay:
    """RePlay's SasRec with its Parquet data and Lightning module."""

    def __init__(self, settings: Settings):
        warnings.filterwarnings("ignore")
        logging.disable(logging.WARNING)
        torch.manual_seed(settings["seed"])
        self._parts = _write(settings)
        window, items = settings["window"], settings["items"]
        schema = TensorSchema(
            TensorFeatureInfo(
                "item_id",
                is_seq=True,
                feature_type=FeatureType.CATEGORICAL,
                embedding_dim=settings["hidden_size"],
                padding_value=items,
                cardinality=items,
                feature_hint=FeatureHint.ITEM_ID,
                feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
            )
        )
        self.model = SasRec.from_params(
            schema=schema,
            embedding_dim=settings["hidden_size"],
            num_heads=settings["num_heads"],
            num_blocks=settings["num_layers"],
            max_sequence_length=window,
            dropout=settings["dropout"],
            hidden_dim=settings["inner_size"],
        )
        optimizer = OptimizerFactory(
            learning_rate=settings["learning_rate"], weight_decay=settings["weight_decay"]
        )
        self._module = LightningModule(self.model, optimizer_factory=optimizer)
        # One item more for training: the last one is a target only.
        shapes = {"train": window + 1, "predict": window}
        self._about = {
            "metadata": {
                stage: {"item_id": {"shape": shape, "padding": items}}
                for stage, shape in shapes.items()
            },
            "transforms": make_default_sasrec_transforms(schema),
            "batch_size": {"train": settings["sequences"], "predict": _RANKED},
        }
        self._steps = -(-len(self._parts["train"][1]) // settings["sequences"])
        self._trainer: Any = None
        self._kept: Any = None

    def epoch(self, most: float) -> Timed:
        """See `protocol.Peer`."""
        clock = LightningClock(most)
        if self._trainer is None:
            self._trainer = _trainer(max_epochs=1, limit_val_batches=0)
            self._data = ParquetModule(train_path=self._parts["train"][0], **self._about)
        else:
            self._trainer.fit_loop.max_epochs += 1
        self._trainer.callbacks = [clock]
        self._trainer.fit(self._module, datamodule=self._data)
        return Timed(clock.seconds, min(1.0, clock.done / self._steps), self._steps)

    def rank(self, part: str, most: float) -> tuple[Timed, dict[str, float]]:
        """See `protocol.Peer`; never stopped."""
        path, targets = self._parts[part]
        data = ParquetModule(predict_path=path, **self._about)
        trainer = _trainer()
        started = time.perf_counter()
        batches = trainer.predict(self._module, datamodule=data)
        ranks, first = [], 0
        for batch in batches:
            scores = batch["logits"]
            wanted = torch.from_numpy(targets[first : first + len(scores)])[:, None]
            ranks += (scores > scores.gather(1, wanted)).sum(1).tolist()
            first += len(scores)
        return Timed(time.perf_counter() - started, 1.0, 1), metrics_of(ranks)

    def keep(self) -> None:
        """See `protocol.Peer`."""
        self._kept = copy.deepcopy(self.model.state_dict())

    def restore(self) -> None:
        """See `protocol.Peer`."""
        self.model.load_state_dict(self._kept)


def _trainer(**options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def _write(settings: Settings) -> dict[str, tuple[str, np.ndarray]]:
    """Part → Parquet file of the users' histories before it, and the items that follow."""
    folder = Path(settings["data"]) / "peers"
    rows = pd.read_csv(folder / "peers.inter", sep="\t")
    rows = rows.set_axis(["user_id", "item_id", "place"], axis=1).sort_values(["user_id", "place"])
    whole = [group.to_numpy() for _, group in rows.groupby("user_id")["item_id"]]
    window, found = settings["window"], {}
    for part, left in (("train", 2), ("validation", 2), ("test", 1)):
        read = [items[:-left] for items in whole]
        longest = window + (part == "train")
        kept = [items[-longest:] for items in read if part != "train" or len(items) > 1]
        path = folder / f"replay-{part}.parquet"
        pd.DataFrame({"item_id": kept}).to_parquet(path)
        targets = np.array([items[-left] for items in whole], dtype=np.int64)
        found[part] = str(path), targets[: len(kept)]
    return found


def versions() -> dict[str, str]:
    """Of what computes."""
    return {name: importlib.metadata.version(name) for name in ("replay-rec", "torch", "numpy")}


if __name__ == "__main__":
    drive(RePlay, versions)
