"""README, changelog and CONTRIBUTING as pages of the site."""

import re
from pathlib import Path

FILES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
# What these files link to, and the page of it; what has none loses its link.
PLACES = [
    (r"docs/(.+)", r"\1"),
    (r"notebooks/(\w+)\.ipynb", r"notebooks/\1.md"),
    (r"notebooks", "notebooks/quickstart.md"),
    (r"benchmarks/README\.md", "performance.md"),
    (r"(https://.+)", r"\1"),
    *((re.escape(name), name.lower()) for name in FILES),
]


def pages(root: Path) -> dict[str, str]:
    """The pages by their paths."""
    return {name.lower(): page((root / name).read_text()) for name in FILES}


def page(text: str) -> str:
    # The site loads nothing from elsewhere, and has the picture and the list already.
    text = re.sub(r"^\[!\[.*\n\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"<picture>.*?</picture>\n\n", "", text, flags=re.DOTALL)
    text = re.sub(
        r"<!-- losses -->.*<!-- end of losses -->",
        "They stand on [a page of their own](losses.md).",
        text.replace("# jaxloss\n", "# README\n", 1),
        flags=re.DOTALL,
    )
    return re.sub(r"\[([^]]+)\]\(([^)]+)\)", moved, text)


def moved(link: re.Match[str]) -> str:
    for place, target in PLACES:
        if match := re.fullmatch(place, link[2]):
            return f"[{link[1]}]({match.expand(target)})"
    return link[1]
