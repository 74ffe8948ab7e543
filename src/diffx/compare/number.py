"""Numbers as people read them: three digits, with a prefix when they are large."""

PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k"))
NONE = "–"


def compact(value: float | None, unit: str = "") -> str:
    """12345 as 12.3k, 0.00123 as 0.00123, None as a dash; the prefixes are powers of 1000."""
    if value is None:
        return NONE
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            scale = 1e3 if prefix == "k" else size
            return f"{value / scale:.3g}{prefix}{unit}"
    return f"{value:.4g}{unit}" if abs(value) >= 1000 else f"{value:.3g}{unit}"
