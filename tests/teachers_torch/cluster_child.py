"""A process that encodes texts in small parts, for the tests of a cluster.

    python -m tests.teachers_torch.cluster_child FOLDER

It prints one line a progress report. With $PRMKD_RAY the parts are made there.
"""

import functools
import sys
from pathlib import Path

from teachers_torch.cluster import make_parts
from teachers_torch.config import TextConfig
from teachers_torch.items.text import _sentence_encoder

COUNT, SIZE = 80, 10


def main(folder: str) -> None:
    """Encodes long sentences, so that a part takes a second or so."""
    sentences = tuple(f"Zinc plated steel bolt {n}, " + "with washers " * 60 for n in range(COUNT))
    recipe = functools.partial(_sentence_encoder, sentences, TextConfig())
    make_parts(Path(folder), COUNT, SIZE, recipe, lambda done, total: print(done, flush=True))


if __name__ == "__main__":
    main(sys.argv[1])
