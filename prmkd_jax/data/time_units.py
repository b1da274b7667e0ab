"""The unit of a Unix time, known by its size; the ranges do not overlap from 1973 to 5138.

10^8  … 10^11 seconds, … 10^14 milliseconds, … 10^17 microseconds, … 10^20 nanoseconds
"""

import re
from collections.abc import Iterable

# Each unit's smallest number, its name, and what makes microseconds of it: times, over.
SMALLEST = {"s": 10**8, "ms": 10**11, "us": 10**14, "ns": 10**17}
NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
TO_MICROSECONDS = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}


def unit_of(number: float) -> str | None:
    """The unit of a Unix time, or None where it is none after 1973.

    >>> unit_of(1_538_352_000), unit_of(1_538_352_000_000), unit_of(881250949.0), unit_of(20181001)
    ('s', 'ms', 's', None)
    """
    units = [unit for unit, low in SMALLEST.items() if number >= low]
    return units[-1] if units and number < 10**20 else None


# A year, a month, a day and an hour; then minutes, seconds and milliseconds, each or none.
_DATE = re.compile(
    r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])([0-5]\d([0-5]\d(\d{3})?)?)?"
)


def are_dates(numbers: Iterable[float]) -> bool:
    """Whether all are dates with an hour, written without signs between.

    By their size they would be times too, of another year: 2018100110 a second of 2033.

    >>> are_dates([2018100110, 2018100209]), are_dates([2018100110, 2018100260])
    (True, False)
    """
    return all(_DATE.fullmatch(str(int(number))) for number in numbers)
