"""A made-up run with the shape and the size of numbers of a real one on Scientific."""

import copy

import numpy as np

METRICS = ("Recall@5", "Recall@10", "Recall@20", "NDCG@5", "NDCG@10", "NDCG@20", "MRR")
SEEDS = (0, 1, 2)
TEACHERS = {
    "unisrec-text": (0.0731, 0.1092, 0.1570, 0.0498, 0.0614, 0.0735, 0.0552),
    "unisrec": (0.0824, 0.1235, 0.1694, 0.0548, 0.0681, 0.0797, 0.0590),
    "unim2rec": (0.0796, 0.1163, 0.1601, 0.0561, 0.0679, 0.0790, 0.0601),
}
STUDENTS = {
    "base": (0.0702, 0.1020, 0.1408, 0.0438, 0.0540, 0.0638, 0.0471),
    "prmkd": (0.0815, 0.1187, 0.1659, 0.0521, 0.0641, 0.0760, 0.0559),
}
SHARES = {"unisrec-text": 0.081, "unisrec": 0.124, "unim2rec": 0.295}
WEIGHTS = {"unisrec-text": 0.311, "unisrec": 0.345, "unim2rec": 0.344}


def metrics(values, scale: float = 1.0) -> dict[str, float]:
    return {metric: value * scale for metric, value in zip(METRICS, values, strict=True)}


def history(kind: str, seed: int, epochs: int) -> list[dict]:
    noise = np.random.default_rng([seed, kind == "prmkd"])
    top, pace = (0.0712, 5.0) if kind == "prmkd" else (0.0602, 8.0)
    records = []
    for epoch in range(1, epochs + 1):
        rise = 1 - np.exp(-epoch / pace)
        ndcg = top * rise + noise.normal(0, 8e-4) - 2e-5 * max(0, epoch - 25)
        record = {
            "epoch": epoch,
            "loss": 8.3 - 2.0 * rise,
            "cross_entropy": 8.3 - 2.0 * rise,
            "distillation": 0.0,
            "validation": {"NDCG@10": float(ndcg), "Recall@10": float(1.85 * ndcg)},
        }
        if kind == "prmkd":
            record["distillation"] = 1.4 - 0.9 * rise
            record["teachers"] = {
                name: {
                    "excluded": SHARES[name] + float(noise.normal(0, 4e-3)),
                    "weight": WEIGHTS[name] + 0.25 - SHARES[name] - 1 / 12,
                    "entropy": 3.9 + 0.2 * SHARES[name],
                    "agreement": 0.2 + 0.35 * rise,
                    "kl": 1.1 - 0.6 * rise + SHARES[name],
                }
                for name in TEACHERS
            }
        records.append(record)
    return records


def student(kind: str) -> dict:
    values = STUDENTS[kind]
    runs = []
    for seed in SEEDS:
        records = history(kind, seed, (34, 41, 37)[seed])
        best = max(records, key=lambda record: record["validation"]["NDCG@10"])["epoch"]
        scale = (0.994, 1.0, 1.006)[seed]
        runs.append(
            {
                "seed": seed,
                "validation": metrics(values, 1.11 * scale),
                "test": metrics(values, scale),
                "test_masked": metrics(values, 1.04 * scale),
                "best_epoch": best,
                "epochs": len(records),
                "history": records,
            }
        )
    summary = {
        "validation": metrics(values, 1.11),
        "test": metrics(values),
        "test_std": metrics(values, 0.006),
        "test_masked": metrics(values, 1.04),
        "parameters": 2_783_100,
        "per_seed": runs,
    }
    if kind == "prmkd":
        summary |= {"threshold": 0.4127, "teacher_weights": dict(WEIGHTS)}
        for run, threshold in zip(runs, (0.4127, 0.4139, 0.4118), strict=True):
            run["threshold"] = threshold
    return summary


def compared(base: dict, prmkd: dict) -> dict:
    improvement = {m: prmkd["test"][m] / base["test"][m] - 1 for m in METRICS}
    return {
        "base": base,
        "prmkd": prmkd,
        "improvement": improvement,
        "p_value": dict(
            zip(METRICS, (3.1e-7, 2.2e-9, 4e-14, 5.5e-8, 1.7e-10, 6e-13, 8e-11), strict=True)
        ),
        "p_value_wilcoxon": dict(
            zip(METRICS, (4.0e-7, 3.1e-9, 5e-14, 0.0, 2.6e-10, 9e-13, 0.0312), strict=True)
        ),
    }


def fake_results() -> dict:
    """A new results.json of three teachers and SASRec over three seeds."""
    sizes = {"unisrec-text": 4_180_352, "unisrec": 5_778_452, "unim2rec": 6_962_304}
    return {
        "schema_version": 1,
        "dataset": {
            "name": "scientific",
            "fingerprint": "9f2c1d7a0b3e4f58",
            "users": 11_041,
            "items": 5_327,
            "interactions": 76_896,
            "average_length": 6.9646,
            "sparsity": 0.998693,
            "cold_targets": 41,
        },
        "environment": {
            "python": "3.11.2",
            "jax": "0.10.2",
            "flax": "0.12.8",
            "optax": "0.2.8",
            "torch": "2.13.0",
            "processor": "x86_64",
            "cores": 2,
            "git_commit": "5a1e7c0",
        },
        "settings": {
            "dataset": "scientific",
            "student": "sasrec",
            "teachers": ["unisrec-text", "unisrec", "unim2rec"],
            "seeds": [0, 1, 2],
            "hidden_size": 300,
            "num_layers": 2,
            "dropout": 0.5,
            "distill_weight": 5.0,
            "temperature": 0.5,
            "score_normalization": "zscore_softmax",
            "consistency_threshold": None,
            "mask_history": True,
        },
        "teachers": {
            name: {
                "validation": metrics(values, 1.1),
                "test": metrics(values),
                "parameters": sizes[name],
                "table_bytes": 5_327 * 300 * 4,
                "epochs": 31,
                "best_epoch": 21,
            }
            for name, values in TEACHERS.items()
        },
        "students": {"sasrec": compared(student("base"), student("prmkd"))},
    }


def fake_timing() -> dict:
    """A timing.json that belongs to `fake_results`."""
    return {
        "stages": {"data": 1.9, "teachers": 912.4, "students": 1734.0, "report": 2.1},
        "teachers": {
            "unisrec-text": {"tune": 263.0, "encode": 9.1},
            "unisrec": {"tune": 301.7, "encode": 9.4},
            "unim2rec": {"tune": 318.2, "encode": 11.0},
        },
        "students": {
            "sasrec": {
                "base": {
                    "train_seconds": 271.3,
                    "seconds_per_epoch": 7.26,
                    "evaluate_seconds": 0.91,
                },
                "prmkd": {
                    "train_seconds": 298.8,
                    "seconds_per_epoch": 7.98,
                    "evaluate_seconds": 0.92,
                },
            }
        },
    }


def worse_results() -> dict:
    """A run in which distillation harms, significantly."""
    results = fake_results()
    sasrec = results["students"]["sasrec"]
    results["students"]["sasrec"] = compared(
        copy.deepcopy(sasrec["base"]),
        {**sasrec["prmkd"], "test": metrics(STUDENTS["base"], 0.93)},
    )
    return results


def one_seed_results() -> dict:
    """A run with one seed, one teacher and no consistency to decide."""
    results = fake_results()
    results["teachers"] = {"unisrec": results["teachers"]["unisrec"]}
    for kind in ("base", "prmkd"):
        variant = results["students"]["sasrec"][kind]
        variant["per_seed"] = variant["per_seed"][:1]
        variant["test_std"] = None
        for record in variant["per_seed"][0]["history"]:
            if kind == "prmkd":
                record["teachers"] = {"unisrec": record["teachers"]["unisrec"]}
    results["students"]["sasrec"]["prmkd"]["teacher_weights"] = {"unisrec": 1.0}
    return results


def base_only_results() -> dict:
    """A run without teachers, as a rival is measured."""
    results = fake_results()
    results["teachers"] = {}
    results["students"] = {"sasrec": {"base": results["students"]["sasrec"]["base"]}}
    return results
