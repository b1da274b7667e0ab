"""The page at `/`, and headers that let it load nothing from elsewhere but images."""

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def _sources(tag: str) -> str:
    """The hashes by which a browser knows the page's own scripts or styles."""
    inner = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inner]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; script-src {_sources('script')}; style-src {_sources('style')}; "
        "connect-src 'self'; img-src 'self' data: https: http:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
