"""Makes ordinary text of the docstring sections that Google's style lacks."""

import re
import textwrap

import griffe


class PlainSections(griffe.Extension):
    def on_function(self, *, func, **_):
        if func.docstring:
            func.docstring.value = re.sub(
                r"^(Gradient|Numerics|Example|References):\n((?:\n|    .*\n?)+)",
                plain,
                func.docstring.value,
                flags=re.MULTILINE,
            )


def plain(match):
    title, text = match[1], textwrap.dedent(match[2]).strip("\n")
    if title == "Example":
        text = f"```pycon\n{text}\n```"
    return f'<span class="doc-section-title">{title}:</span>\n\n{text}\n\n'
