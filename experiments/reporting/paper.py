"""What the paper prints (arXiv 2401.00797v1), to be shown next to our figures.

Its absolute values are no targets: of the 40 blocks of Table 3, one a data set and model, 22 have a
step from one cutoff to the next that no ranking can have (`impossible_steps`).
"""

import math
from collections.abc import Mapping, Sequence

TABLE2: Mapping[str, tuple[int, int, int, float, float]] = {
    "Instruments": (24_962, 9_749, 207_926, 8.37, 99.93),
    "Toys": (18_436, 10_986, 163_837, 8.34, 99.94),
    "Scientific": (11_041, 5_327, 76_896, 6.96, 99.99),
    "Arts": (45_486, 21_019, 395_150, 8.69, 99.96),
    "Games": (10_235, 14_798, 98_374, 9.03, 99.89),
}
"""Data set → users, items, interactions, average length, sparsity in percent."""

MODELS = (
    "UniSRec",
    "Recformer",
    "UniM²Rec",
    "GRU4Rec",
    "SASRec",
    "BERT4Rec",
    "RecGURU",
    "PRM-KD",
)
"""Columns of Table 3, by the names that our tables have."""

TABLE3: Mapping[str, Mapping[str, Sequence[float]]] = {
    "Instruments": {
        "Recall@5": (0.0840, 0.0841, 0.0978, 0.0677, 0.0860, 0.0892, 0.0865, 0.0954),
        "Recall@10": (0.1104, 0.1061, 0.1289, 0.0843, 0.0979, 0.1098, 0.1082, 0.1089),
        "Recall@20": (0.1473, 0.1395, 0.1697, 0.1093, 0.1483, 0.1572, 0.1374, 0.1593),
        "NDCG@5": (0.0548, 0.0629, 0.0635, 0.0496, 0.0526, 0.0553, 0.0594, 0.0597),
        "NDCG@10": (0.0623, 0.0825, 0.0759, 0.0549, 0.0635, 0.0631, 0.0699, 0.0757),
        "NDCG@20": (0.0717, 0.0917, 0.0842, 0.0612, 0.0703, 0.0719, 0.0811, 0.0814),
    },
    "Toys": {
        "Recall@5": (0.1007, 0.1123, 0.1053, 0.0757, 0.0795, 0.0694, 0.0742, 0.0884),
        "Recall@10": (0.1260, 0.1341, 0.1247, 0.0903, 0.0979, 0.0829, 0.0936, 0.1163),
        "Recall@20": (0.1539, 0.1574, 0.1601, 0.1082, 0.1184, 0.0988, 0.1121, 0.1291),
        "NDCG@5": (0.0664, 0.0712, 0.0692, 0.0617, 0.0632, 0.0560, 0.0656, 0.0703),
        "NDCG@10": (0.0745, 0.0943, 0.0901, 0.0664, 0.0693, 0.0604, 0.0679, 0.0784),
        "NDCG@20": (0.0816, 0.0993, 0.0989, 0.0709, 0.0746, 0.0644, 0.0763, 0.0819),
    },
    "Scientific": {
        "Recall@5": (0.0884, 0.0875, 0.0907, 0.0373, 0.0783, 0.0314, 0.0697, 0.0754),
        "Recall@10": (0.1215, 0.1391, 0.1249, 0.0588, 0.1064, 0.0488, 0.0894, 0.1231),
        "Recall@20": (0.1674, 0.1695, 0.1723, 0.0843, 0.1408, 0.0721, 0.1157, 0.1534),
        "NDCG@5": (0.0553, 0.0589, 0.0594, 0.0242, 0.0457, 0.0187, 0.0513, 0.0534),
        "NDCG@10": (0.0668, 0.0764, 0.0895, 0.0311, 0.0549, 0.0243, 0.0581, 0.0627),
        "NDCG@20": (0.0781, 0.0979, 0.1012, 0.0376, 0.0635, 0.0302, 0.0642, 0.0715),
    },
    "Arts": {
        "Recall@5": (0.0905, 0.1053, 0.0917, 0.0565, 0.0804, 0.0782, 0.0797, 0.0879),
        "Recall@10": (0.1239, 0.1474, 0.1304, 0.0763, 0.1108, 0.1039, 0.1021, 0.1272),
        "Recall@20": (0.1665, 0.1702, 0.1673, 0.1028, 0.1403, 0.1354, 0.1320, 0.1490),
        "NDCG@5": (0.0570, 0.0658, 0.0639, 0.0405, 0.0484, 0.0465, 0.0621, 0.0495),
        "NDCG@10": (0.0682, 0.0797, 0.0729, 0.0469, 0.0587, 0.0541, 0.0693, 0.0695),
        "NDCG@20": (0.0786, 0.0963, 0.0802, 0.0535, 0.0654, 0.0625, 0.0768, 0.0729),
    },
    "Games": {
        "Recall@5": (0.0654, 0.0631, 0.0679, 0.0519, 0.0588, 0.0567, 0.0532, 0.0569),
        "Recall@10": (0.1021, 0.1046, 0.1084, 0.0844, 0.0993, 0.0974, 0.0951, 0.1089),
        "Recall@20": (0.1670, 0.1598, 0.1705, 0.1324, 0.1516, 0.1504, 0.1403, 0.1521),
        "NDCG@5": (0.0366, 0.0384, 0.0372, 0.0335, 0.0317, 0.0321, 0.0341, 0.0351),
        "NDCG@10": (0.0504, 0.0569, 0.0527, 0.0439, 0.0445, 0.0439, 0.0462, 0.0474),
        "NDCG@20": (0.0651, 0.0695, 0.0673, 0.0560, 0.0578, 0.0557, 0.0591, 0.0609),
    },
}
"""Data set → metric → one value a model of `MODELS`."""

TABLE4: Mapping[str, tuple[float, float, float]] = {
    "SASRec": (1.0, 1.0, 1.0),
    "UniSRec": (2.7, 51.5, 1.9),
    "Recformer": (2.1, 81.7, 3.1),
    "UniM²Rec": (2.5, 64.3, 2.1),
    "PRM-KD": (1.2, 1.0, 1.0),
}
"""Model → time of training, memory of serving, time of serving, each in times SASRec's, on Arts."""


def paper_value(data: str, model: str, metric: str) -> float | None:
    """A cell of Table 3; None where the paper has none.

    Args:
        data: a data set's name, however it is written.
        model: a model's display name, such as "PRM-KD (SASRec)" or "UniSRec text+ID".
        metric: the name of one of the paper's six metrics.

    >>> paper_value("scientific", "PRM-KD (SASRec)", "NDCG@10")
    0.0627
    """
    table = {name.lower(): metrics for name, metrics in TABLE3.items()}.get(data.lower(), {})
    name = papers_name(model)
    if name not in MODELS or metric not in table:
        return None
    return table[metric][MODELS.index(name)]


def paper_costs(model: str) -> tuple[float, float, float] | None:
    """A row of Table 4; None where the paper has none.

    >>> paper_costs("UniSRec text+ID")
    (2.7, 51.5, 1.9)
    """
    return TABLE4.get(papers_name(model))


def papers_name(model: str) -> str:
    """The paper's name of a model, or ours where it has none.

    Its UniSRec has an ID embedding; ours without one is another model. It doesn't say what second
    domain its RecGURU has; ours has none unless it is given one.
    """
    names = {
        "UniSRec text+ID": "UniSRec",
        "PRM-KD (SASRec)": "PRM-KD",
        "RecGURU-AE": "RecGURU",
    }
    return names.get(model, model)


def impossible_steps(metrics: Mapping[str, float], rounding: float = 5e-5) -> list[tuple[int, int]]:
    """Pairs of cutoffs between which NDCG and Recall can't both come from one ranking.

    With one target a user, what enters between the cutoffs a and b has a rank from a + 1 to b, so
    NDCG grows by between ΔRecall / log2(b + 1) and ΔRecall / log2(a + 2).

    Args:
        metrics: Recall and NDCG at 5, 10 and 20.
        rounding: how far each printed value may be from the true one.

    >>> impossible_steps({"Recall@5": 0.0954, "Recall@10": 0.1089, "Recall@20": 0.1593,
    ...                   "NDCG@5": 0.0597, "NDCG@10": 0.0757, "NDCG@20": 0.0814})
    [(5, 10), (10, 20)]
    """
    found = []
    for a, b in ((5, 10), (10, 20)):
        hits = metrics[f"Recall@{b}"] - metrics[f"Recall@{a}"]
        gained = metrics[f"NDCG@{b}"] - metrics[f"NDCG@{a}"]
        least = (hits - 2 * rounding) / math.log2(b + 1)
        most = (hits + 2 * rounding) / math.log2(a + 2)
        if not least - 2 * rounding <= gained <= most + 2 * rounding:
            found.append((a, b))
    return found
