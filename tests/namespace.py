"""The public names by family, as `jaxloss/__init__.py` groups them."""

import re
from pathlib import Path

import jaxloss


def families() -> dict[str, list[str]]:
    """Reads the groups of `__all__`: a comment is the family of what follows it."""
    assert jaxloss.__file__ is not None
    source = Path(jaxloss.__file__).read_text()
    groups = {}
    names = []
    for comment, name in re.findall(
        r'^    (?:# (.+)|"(\w+)",)$', source.split("__all__ = [")[1], re.MULTILINE
    ):
        if comment:
            names = groups.setdefault(comment, [])
        else:
            names.append(name)
    return groups
