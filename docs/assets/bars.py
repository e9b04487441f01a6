"""What the pages of benchmark results share: a row's name, and a chart of ratios."""

import html


def label(result) -> str:
    half = "" if result["dtype"] == "float32" else f", {result['dtype']}"
    return result["row"] + half


def bars(rows, described, *, even=1.0, longest=None):
    """A bar for each (row, ratio, peer); a line where jaxloss and the peer are equal.

    Args:
        rows: What is drawn.
        described: The text for those who hear the page.
        even: The least ratio that counts as no worse.
        longest: The ratio of the longest bar, if larger ones are cut.
    """
    most = max([1, *(ratio for _, ratio, _ in rows)])
    most = most if longest is None else min(most, longest)
    yield f'<div class="bars" data-search-exclude role="img" aria-label="{described}">'
    for name, ratio, peer in rows:
        kind = "faster" if ratio >= even else "slower"
        style = f"--width: {min(ratio / most, 1):.2%}; --even: {1 / most:.2%}"
        yield (
            f"<div><span>{html.escape(name)}</span>"
            f'<span class="bar {kind}" style="{style}"></span>'
            f"<span>{ratio:.2f} {html.escape(peer)}</span></div>"
        )
    yield "</div>"
