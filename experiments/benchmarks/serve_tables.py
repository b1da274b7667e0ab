"""The figures of `bench --suite=serve` as Markdown: what a model is, how long it takes."""

from collections.abc import Sequence

from experiments.reporting.costs import Latency, ModelSize, Ratio, ServeCosts


def markdown(content: ServeCosts) -> str:
    """Three tables: sizes, latencies, the two students against each other.

    Args:
        content: the content of `bench-serve.json`.
    """
    return "\n\n".join(
        [
            _sizes(content["models"]),
            _latencies(content["latencies"]),
            _ratios([*content["ratios"], {"items": "all", "batch": "all", **content["ratio"]}]),
        ]
    )


def _sizes(models: Sequence[ModelSize]) -> str:
    rows = []
    for row in models:
        plain = next(each for each in models if each["items"] == row["items"])
        rows.append(
            [
                row["model"],
                row["item_vectors"],
                f"{row['items']:,}",
                f"{row['file_bytes']:,}" if row["file_bytes"] else "–",
                f"{row['parameters']:,}",
                f"{row['bytes_held'] / 1e6:,.1f}",
                f"{row['bytes_held'] / plain['bytes_held']:.2f}×",
                f"{row['flops_per_request'] / 1e6:,.1f}",
                f"{row['flops_per_request'] / plain['flops_per_request']:.2f}×",
            ]
        )
    head = ["model", "item vectors", "items", "bytes of the files", "parameters", "MB held"]
    return _table([*head, "", "MFLOP a request", ""], rows)


def _latencies(latencies: Sequence[Latency]) -> str:
    rows = []
    for row in latencies:
        place = row["items"], row["batch"]
        plain = next(each for each in latencies if (each["items"], each["batch"]) == place)
        rows.append(
            [
                row["model"],
                row["item_vectors"],
                f"{row['items']:,}",
                f"{row['batch']:,}",
                f"{row['calls']:,}",
                *(f"{row[name]:,.2f}" for name in ("p50_ms", "p90_ms", "p99_ms")),
                f"{row['p50_ms'] / plain['p50_ms']:.2f}×",
            ]
        )
    head = ["model", "item vectors", "items", "batch", "calls", "p50 ms", "p90 ms", "p99 ms"]
    return _table([*head, "p50 of the plain one"], rows)


def _ratios(ratios: Sequence[Ratio]) -> str:
    rows = [
        [f"{row['items']:,}", f"{row['batch']:,}"]
        if isinstance(row["items"], int)
        else ["all", "all"]
        for row in ratios
    ]
    figures = [[f"{row[name]:.3f}" for name in ("ratio", "low", "high")] for row in ratios]
    cells = [[*place, *told] for place, told in zip(rows, figures, strict=True)]
    return _table(["items", "batch", "distilled / plain", "95 % from", "to"], cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
