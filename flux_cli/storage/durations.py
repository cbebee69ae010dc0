"""Durations and points in time as people write them: `90s`, `1h30m`, `2026-11-25`, `2d` (ago)."""

import math
import re

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PART = r"(?a)(\d+(?:\.\d+)?)([dhms])"


def parse_duration(text: str) -> float:
    """Return seconds; a number without a unit is in seconds, `inf` is no limit. Raises ValueError for others."""
    value = text.strip().lower()
    parts = re.findall(_PART, value)
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


def parse_moment(text: str, now: float) -> float:
    """Return the Unix time (seconds) of a date, a date with a time, `today`, `yesterday`, or a duration ago.

    A date is its first second; without an offset the local time zone counts. A number needs a unit. Raises
    ValueError for other text.
    """
    from datetime import datetime, timedelta  # 3 ms, and only a few options need it

    value = text.strip().lower()
    midnight = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"today": 0, "yesterday": 1}.get(value)
    try:
        if days is not None:
            return (midnight - timedelta(days=days)).timestamp()
        if re.match(_PART, value):
            return now - parse_duration(value)
        return datetime.fromisoformat(value.upper()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError("takes a date like 2026-11-25, a date with a time, or an age like 2h or 7d") from None
