"""The words and columns that both comparisons share."""

SIGNIFICANT, EXPECTED = 0.05, 0.2


def chance(p: float) -> str:
    """Return what a p-value says of a difference, in words."""
    if p < SIGNIFICANT:
        return f"a difference this large is hardly chance (p {p_value(p, '= ')})"
    verdict = "is expected by chance" if p > EXPECTED else "may well be chance"
    return f"a difference this small {verdict} (p {p_value(p, '= ')})"


def p_value(p: float, equals: str = "") -> str:
    return f"{equals}{p:#.2g}" if p >= 0.0001 else "< 0.0001"


def columns(title: str, result: dict, rows: list[tuple]) -> list[str]:
    """Return lines of at most 80 columns: rows of (title, value of A, value of B), with a head."""
    heads = (f"{letter.upper()}: {result[letter]['revision']}"[:22] for letter in "ab")
    return [f"{first:32}{a!s:>22}  {b!s:>22}" for first, a, b in [(title, *heads), *rows]]
