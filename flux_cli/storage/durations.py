"""Durations as people write them: `90`, `90s`, `10m`, `1h30m`."""

import math
import re

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])", re.ASCII)


def parse_duration(text: str) -> float:
    """Return seconds; a number without a unit is in seconds, `inf` is no limit.

    Raises:
        ValueError: The text is no duration, or a negative one.
    """
    value = text.strip().lower()
    parts = _PART.findall(value)
    try:
        if parts and "".join(number + unit for number, unit in parts) == value:
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        else:
            seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise ValueError("takes seconds, or a duration like 90s, 10m or 1h")
    return seconds
