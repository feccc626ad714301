"""How long to wait before the next attempt. Pure."""


def pause_s(attempts: int, first_s: float, max_s: float) -> float:
    """Return the pause before the next attempt, seconds: it doubles with every attempt, up to a bound."""
    return float(min(max_s, first_s * 2 ** min(attempts, 32)))
