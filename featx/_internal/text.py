"""How figures are written for people."""


def percent(share: float, space: str = " ") -> str:
    """A share, 0 to 1, as a percentage with one decimal: ``97.5 %``."""
    return f"{100 * share:.1f}{space}%"
