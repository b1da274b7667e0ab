"""Parts of the docs that are made of records: a block between two comments in a Markdown page.

<!-- made of scientific-three.json -->
…
<!-- end -->

After the name may stand what is shown of it: `made of scientific-three.json: headline`. The name
`*.json` stands for all records.
"""

import re
from collections.abc import Callable

from prmkd_jax.common.errors import UserError

_EXPECTED = "<!-- made of NAME --> or <!-- made of NAME: VIEW -->"
_BEGIN = r"<!-- made of (?P<name>\S+?)(?:: (?P<view>\w+))? -->"
_BLOCK = re.compile(
    rf"^(?P<begin>{_BEGIN}(?P<line_end>\r?\n)).*?^(?P<end><!-- end -->)(?=\r?$)",
    re.DOTALL | re.MULTILINE,
)
# Mistyped ones too; behind four blanks it would be code to Markdown.
_LIKE_A_MARK = re.compile(r" {0,3}<!--? *made +of\b", re.IGNORECASE)
_BOM = "\ufeff"


def fill(page: str, made: Callable[[str, str], str], name: str) -> str:
    """The page with its blocks made again; everything else stays as it is.

    >>> page = "<!-- made of x.json -->\\nold\\n<!-- end -->\\nb"
    >>> fill(page, lambda name, view: f"of {name}", "page.md").splitlines()
    ['<!-- made of x.json -->', '', 'of x.json', '', '<!-- end -->', 'b']

    Args:
        page: Markdown, with or without a byte order mark; a block's lines end as its first does.
        made: name of a record's file, and what is shown of it, "" for all → its block's text.
        name: the page's, for an error.

    Raises:
        UserError: there is no block, one isn't closed, or a line is nearly the begin of one.
    """
    bom = _BOM if page.startswith(_BOM) else ""
    page = page.removeprefix(_BOM)
    begun, ended = _count_begun(page, name), len(_BLOCK.findall(page))
    if not begun:
        raise UserError(f"{name}: found no block, expected some that begin with {_EXPECTED}")
    if begun != ended:
        raise UserError(f"{name}: found {begun} made blocks of which {ended} end, expected all")

    def block(found: re.Match[str]) -> str:
        text = made(found["name"], found["view"] or "").strip()
        lines = f"\n{text}\n\n".replace("\n", found["line_end"])
        return f"{found['begin']}{lines}{found['end']}"

    return bom + _BLOCK.sub(block, page)


def _count_begun(page: str, name: str) -> int:
    """How many blocks begin.

    Raises:
        UserError: a line is nearly the begin of one.
    """
    lines = [line.removesuffix("\r") for line in page.split("\n")]
    begun = 0
    for number, line in enumerate(lines, 1):
        if re.fullmatch(_BEGIN, line):
            begun += 1
        elif _LIKE_A_MARK.match(line):
            raise UserError(f"{name}, line {number}: found {line!r}, expected {_EXPECTED}")
    return begun
