"""RecBole's side of the round trip; runs in RecBole's environment and imports nothing of ours.

train: RecBole's SASRec, with RecBole's data and trainer; its file gets the ids of its rows.
serve: a model of RecBole's, over RecBole's data of today, with weights that were updated elsewhere.
Both write what the model recommends for some users: histories, items, scores.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

CONFIG = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "TIME_FIELD": "timestamp",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "hidden_size": 64,
    "inner_size": 256,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dropout_prob": 0.2,
    "attn_dropout_prob": 0.2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "MAX_ITEM_LIST_LENGTH": 20,
    "loss_type": "CE",
    "train_neg_sample_args": None,
    "train_batch_size": 256,
    "learning_rate": 0.002,
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
    "seed": 1,
}
ASKED, BEST = 50, 10


def main(stage: str, data: str, dataset: str, weights: str, answers: str, epochs: str) -> None:
    """Trains or serves.

    Args:
        stage: train or serve.
        data: folder that holds `<dataset>/<dataset>.inter`.
        dataset: its name.
        weights: RecBole's file, written by train and read by serve.
        answers: JSON file of what the model recommends.
        epochs: of train.
    """
    config = importlib.import_module("recbole.config").Config(
        model="SASRec",
        dataset=dataset,
        config_dict={**CONFIG, "data_path": data, "epochs": int(epochs)},
    )
    theirs = importlib.import_module("recbole.data")
    importlib.import_module("recbole.utils").init_seed(1, True)
    known = theirs.create_dataset(config)
    train, valid, _ = theirs.data_preparation(config, known)
    sasrec = importlib.import_module("recbole.model.sequential_recommender.sasrec").SASRec
    model = sasrec(config, train.dataset)
    tokens = {
        "item_id": known.field2id_token["item_id"].tolist(),
        "user_id": known.field2id_token["user_id"].tolist(),
    }
    if stage == "train":
        trainer = importlib.import_module("recbole.trainer").Trainer(config, model)
        trainer.fit(train, valid, saved=True, show_progress=False)
        content = torch.load(trainer.saved_model_file, weights_only=False)
        # docs/weights.md, Numbering.
        torch.save({**content, "field2id_token": tokens}, weights)
        model.load_state_dict(content["state_dict"])
    else:
        model.load_state_dict(_renumbered(torch.load(weights), tokens["item_id"]))
    Path(answers).write_text(json.dumps(_answers(model, known, tokens["item_id"])))


def _renumbered(content: dict, tokens: list[str]) -> dict:
    """The weights with the rows of the item table where this data set of RecBole's has them."""
    row_of = {token: row for row, token in enumerate(content["field2id_token"]["item_id"])}
    rows = [row_of[token] for token in tokens]
    state = dict(content["state_dict"])
    state["item_embedding.weight"] = state["item_embedding.weight"][rows]
    return state


@torch.inference_mode()
def _answers(model: torch.nn.Module, known: object, tokens: list[str]) -> list[dict]:
    """The best items for the first users' complete histories, by the model's own prediction."""
    model.eval()
    inter = known.inter_feat  # type: ignore[attr-defined]
    histories: dict[int, list[int]] = {}
    order = np.argsort(inter["timestamp"].numpy(), kind="stable")
    for user, item in zip(
        inter["user_id"].numpy()[order], inter["item_id"].numpy()[order], strict=True
    ):
        histories.setdefault(int(user), []).append(int(item))
    out = []
    for user in sorted(histories)[:ASKED]:
        read = histories[user][-CONFIG["MAX_ITEM_LIST_LENGTH"] :]  # type: ignore[misc]
        padded = torch.zeros(1, CONFIG["MAX_ITEM_LIST_LENGTH"], dtype=torch.long)
        padded[0, : len(read)] = torch.tensor(read)
        asked = {"item_id_list": padded, "item_length": torch.tensor([len(read)])}
        scores = model.full_sort_predict(asked)[0]  # type: ignore[operator]
        scores[0] = -np.inf  # [PAD]
        best = torch.topk(scores, BEST)
        out.append(
            {
                "history": [tokens[item] for item in read],
                "items": [tokens[item] for item in best.indices.tolist()],
                "scores": best.values.tolist(),
            }
        )
    return out


if __name__ == "__main__":
    main(*sys.argv[1:])
