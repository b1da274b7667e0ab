"""RecBole's models as yesterday's students of an update."""

import numpy as np
import torch

from bridge.yesterday import read_yesterday
from tests.worlds import facts, from_histories, student_config

# Trained on: u0 with 0 and 1, u1 with 2 and 3, u2 with 3, 0 and 4, u3 with 4.
WORLD = from_histories([[0, 1, 2, 3], [2, 3, 0, 1], [3, 0, 4, 1, 2], [4, 1, 2]], 6)
USERS, ITEMS = ("u2", "gone", "u0", "u1"), ("i3", "i1", "i0", "i5", "i2")
# Of these, by their places in the two: u3 and i4 are new.
EDGES = [(0, 0), (0, 2), (2, 1), (2, 2), (3, 0), (3, 4)]


def test_a_lightgcn_is_smoothed_over_todays_edges_between_what_its_file_knows(tmp_path):
    """Its edges are in the file's numbering, and new users and items have none."""
    config = student_config(student="lightgcn", hidden_size=4, num_layers=2)
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(len(known) + 1, 4)) for known in (USERS, ITEMS)]
    weights = {
        f"{side}_embedding.weight": torch.tensor(table, dtype=torch.float32)
        for side, table in zip(("user", "item"), tables, strict=True)
    }
    tokens = {"user_id": ["[PAD]", *USERS], "item_id": ["[PAD]", *ITEMS]}
    torch.save({"state_dict": weights, "field2id_token": tokens}, tmp_path / "LightGCN.pth")
    found = read_yesterday(tmp_path / "LightGCN.pth", config, facts(WORLD), WORLD).exported
    assert (found.user_ids, found.item_ids) == (USERS, ITEMS)

    graph = np.zeros((4, 5))
    graph[tuple(np.transpose(EDGES))] = 1
    degrees = np.outer(graph.sum(1), graph.sum(0))
    graph = np.divide(graph, np.sqrt(degrees), out=graph, where=degrees > 0)
    users, items = (table[1:] for table in tables)
    twice = graph @ (graph.T @ users), graph.T @ (graph @ items)
    np.testing.assert_allclose(found.users, (users + graph @ items + twice[0]) / 3, atol=1e-6)
    np.testing.assert_allclose(found.items, (items + graph.T @ users + twice[1]) / 3, atol=1e-6)
