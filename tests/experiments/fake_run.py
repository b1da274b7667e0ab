"""Made-up results with the shape and the size of numbers of real ones on Scientific."""

import copy

import numpy as np

METRICS = ("Recall@5", "Recall@10", "Recall@20", "NDCG@5", "NDCG@10", "NDCG@20", "MRR")
SEEDS = (0, 1, 2)
LABELS = {"unisrec-text": "UniSRec text", "unisrec": "UniSRec text+ID", "unim2rec": "UniM²Rec"}
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


def variant(kind: str) -> dict:
    values = STUDENTS[kind]
    seeds = []
    for seed in SEEDS:
        records = history(kind, seed, (34, 41, 37)[seed])
        best = max(records, key=lambda record: record["validation"]["NDCG@10"])["epoch"]
        scale = (0.994, 1.0, 1.006)[seed]
        seeds.append(
            {
                "seed": seed,
                "validation": metrics(values, 1.11 * scale),
                "test": metrics(values, scale),
                "test_masked": metrics(values, 1.04 * scale),
                "best_epoch": best,
                "epochs": len(records),
                "threshold": None,
                "history": records,
            }
        )
    summary = {
        "name": kind,
        "label": "SASRec",
        "kind": "base",
        "flags": ["--teachers="],
        "reference": None,
        "student": {"name": "sasrec", "label": "SASRec"},
        "method": None,
        "teacher_weights": None,
        "validation": metrics(values, 1.11),
        "test": metrics(values),
        "test_std": metrics(values, 0.006),
        "test_masked": metrics(values, 1.04),
        "best_epoch": 30.0,
        "parameters": 2_783_100,
        "seeds": seeds,
        "against": None,
    }
    if kind == "prmkd":
        summary |= {
            "label": "PRM-KD (SASRec)",
            "kind": "distilled",
            "flags": [],
            "reference": "base",
            "method": {"name": "prmkd", "label": "PRM-KD"},
            "teacher_weights": dict(WEIGHTS),
        }
        for run, threshold in zip(seeds, (0.4127, 0.4139, 0.4118), strict=True):
            run["threshold"] = threshold
    return summary


def compared(base: dict, other: dict) -> list[dict]:
    """Both variants, the second with made-up tests against the first."""
    t = (3.1e-7, 2.2e-9, 4e-14, 5.5e-8, 1.7e-10, 6e-13, 8e-11)
    wilcoxon = (4.0e-7, 3.1e-9, 5e-14, 0.0, 2.6e-10, 9e-13, 0.0312)
    against = {
        metric: {
            "change": other["test"][metric] / base["test"][metric] - 1,
            "t_p": t_p,
            "t_p_holm": t_p,
            "wilcoxon_p": wilcoxon_p,
            "wilcoxon_p_holm": wilcoxon_p,
        }
        for metric, t_p, wilcoxon_p in zip(METRICS, t, wilcoxon, strict=True)
    }
    return [base, {**other, "against": against}]


def fake_results() -> dict:
    """New results of three teachers and SASRec over three seeds."""
    sizes = {"unisrec-text": 4_180_352, "unisrec": 5_778_452, "unim2rec": 6_962_304}
    return {
        "schema_version": 2,
        "study": {"name": "train", "title": "PRM-KD", "versus": "the same student alone"},
        "data": {
            "name": "scientific",
            "fingerprint": "9f2c1d7a0b3e4f58",
            "users": 11_041,
            "items": 5_327,
            "interactions": 76_896,
            "average_length": 6.9646,
            "sparsity": 0.998693,
            "cold_targets": 41,
        },
        "split": {"name": "leave_one_out"},
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
            "seen_items": "out",
        },
        "teachers": {
            name: {
                "label": LABELS[name],
                "validation": metrics(values, 1.1),
                "test": metrics(values),
                "parameters": sizes[name],
                "table_bytes": 5_327 * 300 * 4,
                "epochs": 31,
                "best_epoch": 21,
            }
            for name, values in TEACHERS.items()
        },
        "variants": compared(variant("base"), variant("prmkd")),
    }


def fake_timing() -> dict:
    """A timing.json that belongs to `fake_results`."""
    return {
        "stages": {"data": 1.9, "teachers": 912.4, "students": 1734.0, "report": 2.1},
        "teachers": {
            "unisrec-text": {"tune_seconds": 263.0, "encode_seconds": 9.1},
            "unisrec": {"tune_seconds": 301.7, "encode_seconds": 9.4},
            "unim2rec": {"tune_seconds": 318.2, "encode_seconds": 11.0},
        },
        "variants": {
            "base": {
                "train_seconds": 271.3,
                "seconds_per_epoch": 7.26,
                "seconds_per_validation": 0.91,
                "seconds_to_best": 190.2,
            },
            "prmkd": {
                "train_seconds": 298.8,
                "seconds_per_epoch": 7.98,
                "seconds_per_validation": 0.92,
                "seconds_to_best": 201.4,
            },
        },
    }


def worse_results() -> dict:
    """Results in which distillation harms, significantly."""
    results = fake_results()
    base, other = results["variants"]
    worse = {**other, "test": metrics(STUDENTS["base"], 0.93)}
    results["variants"] = compared(copy.deepcopy(base), worse)
    return results


def one_seed_results() -> dict:
    """Results with one seed, one teacher and no consistency to decide."""
    results = fake_results()
    results["teachers"] = {"unisrec": results["teachers"]["unisrec"]}
    for one in results["variants"]:
        one["seeds"] = one["seeds"][:1]
        one["test_std"] = None
        for record in one["seeds"][0]["history"]:
            if one["method"]:
                record["teachers"] = {"unisrec": record["teachers"]["unisrec"]}
    results["variants"][1]["teacher_weights"] = {"unisrec": 1.0}
    return results


def base_only_results() -> dict:
    """Results without teachers, as a rival is measured."""
    results = fake_results()
    results["teachers"] = {}
    results["variants"] = results["variants"][:1]
    return results
