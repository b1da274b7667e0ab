"""Parts of the docs that are made of records: a block between two comments in a Markdown page.

<!-- made of scientific-three.json -->
…
<!-- end -->

After the name may stand what is shown of it: `made of scientific-three.json: headline`.
"""

import re
from collections.abc import Callable

from prmkd_jax.common.errors import UserError

_BEGIN = re.compile(r"^<!-- made of .* -->$", re.MULTILINE)
_BLOCK = re.compile(
    r"^(<!-- made of (\S+?)(?:: (\w+))? -->\n).*?^(<!-- end -->)$", re.DOTALL | re.MULTILINE
)


def fill(page: str, made: Callable[[str, str], str], name: str) -> str:
    """The page with its blocks made again; everything else stays as it is.

    >>> page = "<!-- made of x.json -->\\nold\\n<!-- end -->\\nb"
    >>> fill(page, lambda name, view: f"of {name}", "page.md").splitlines()
    ['<!-- made of x.json -->', '', 'of x.json', '', '<!-- end -->', 'b']

    Args:
        page: Markdown.
        made: name of a record's file, and what is shown of it, "" for all → its block's text.
        name: the page's, for an error.

    Raises:
        UserError: a block isn't closed.
    """
    begun, ended = len(_BEGIN.findall(page)), len(_BLOCK.findall(page))
    if begun != ended:
        raise UserError(f"{name}: found {begun} made blocks of which {ended} end, expected all")

    def block(found: re.Match[str]) -> str:
        return f"{found[1]}\n{made(found[2], found[3] or '').strip()}\n\n{found[4]}"

    return _BLOCK.sub(block, page)
