"""What is served, where, and how much one caller may ask for."""

import dataclasses
import ipaddress

from prmkd_jax.common.options import option, validate


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """The service's models, address and limits."""

    model: str = option(
        "",
        "Folder of the exported student, or a link to it; watched for a newer one.",
        path="folder",
    )
    compare: tuple[str, ...] = option(
        (), "Folders of further students, such as the plain one, shown next to it.", path="folder"
    )
    images: str = option(
        "",
        "Items' images for the page: items.parquet of a data set, or a JSON file of item id → "
        "https address or path.",
        path=True,
    )
    host: str = option("127.0.0.1", "Address to listen on; others than this machine's are warned.")
    port: int = option(8000, "Port to listen on; 0 for any free one.", low=0, high=65535)
    max_body: int = option(2**20, "Longest request body, in bytes.", low=1024)
    max_histories: int = option(64, "Histories in a request.", low=1, high=512)
    max_history: int = option(512, "Items in a history.", low=1)
    max_list: int = option(512, "Items in a list of allowed or denied ones.", low=0)
    max_k: int = option(100, "Items in an answer; the page asks for up to 20.", low=20, high=10000)
    max_requests: int = option(256, "Requests in work at once; more are told to come later.", low=1)
    batch_rows: int = option(
        8, "Histories of several requests that are computed at once; a GPU takes more.", low=1
    )
    batch_wait: float = option(
        2.0,
        "Milliseconds for which a request waits for others to share its batch.",
        low=0,
        high=1e3,
    )
    timeout: float = option(10.0, "Seconds after which a request is given up.", above=0)
    reload_every: float = option(
        1.0, "Seconds between looks for a newer model; 0 never looks.", low=0
    )
    stop_after: float = option(10.0, "Seconds that open requests get at the end.", above=0)

    def __post_init__(self):
        validate(self)

    @property
    def warnings(self) -> list[str]:
        """What the user should know before the service is reachable."""
        if is_loopback(self.host):
            return []
        return [
            f"--host={self.host}: every machine that reaches this one can ask; the service knows "
            "no passwords and no TLS, so put a proxy before it that does"
        ]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
