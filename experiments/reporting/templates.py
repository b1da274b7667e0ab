"""How a page is made of its template, which lies in this folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

# A filter of Jinja's takes a value of any kind and gives what stands on the page.
Filter = Callable[[Any], object]


def render(template: str, filters: Mapping[str, Filter], **values: object) -> str:
    """The page's text; values are escaped, and one that is missing is an error.

    Args:
        template: the template's file name.
        filters: name in the template → filter.
        values: values by the names that the template has for them.

    Raises:
        ValueError: the template names what a value doesn't have.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters
    try:
        return environment.get_template(template).render(values)
    except jinja2.UndefinedError as error:
        raise ValueError(str(error)) from error
