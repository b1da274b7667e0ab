"""What `measure` compares with: the same filters and columns, as one writes them in pandas.

python -m tests.data.sources.in_pandas RAW FOLDER
"""

import sys
from pathlib import Path


def main(raw: Path, folder: Path) -> None:
    """Reads, filters, orders and writes."""
    import pandas as pd  # no requirement of the project, so not at the top

    log = pd.read_json(raw / "Big.json.gz", lines=True)
    log = log[["reviewerID", "asin", "overall", "unixReviewTime"]].drop_duplicates()
    items = pd.read_json(raw / "meta_Big.json.gz", lines=True).drop_duplicates("asin")
    log = log[log["asin"].isin(items.loc[items["title"].notna(), "asin"])]
    before = -1
    while before != len(log):
        before = len(log)
        for column in ("reviewerID", "asin"):
            log = log[log.groupby(column)["asin"].transform("size") >= 5]
    log = log.sort_values(["reviewerID", "unixReviewTime"], kind="stable")
    items = items[items["asin"].isin(log["asin"])].sort_values("asin")
    items["category"] = items["category"].map(",".join)
    items["description"] = items["description"].map(" ".join)
    log.to_parquet(folder / "pandas-interactions.parquet")
    columns = ["asin", "title", "brand", "category", "description", "price"]
    items[columns].to_parquet(folder / "pandas-items.parquet")
    print(f"{len(log):,} interactions")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
