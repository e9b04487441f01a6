"""What the site needs beyond MkDocs' plugins.

Formulas become MathML while the site is built, which browsers render without a script
or a font from elsewhere. Docstring sections that the parser does not know get the look
of those that it does. The list of losses is read from the package.
"""

import html
import logging
import re
import textwrap
from pathlib import Path

import griffe
from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks.jaxloss")

# The public names and the first lines of their docstrings, by the page they stand on.
families: dict[str, dict[str, str]] = {}


def on_config(config):
    """Reads the list of losses; a public name without a page is an error."""
    root = Path(config.docs_dir)
    package = griffe.load("jaxloss", search_paths=[root.parent])
    functions = {str(name): package[str(name)].final_target for name in package.exports}
    families.clear()
    for page in next(item["Losses"] for item in config.nav if "Losses" in item):
        text = (root / page).read_text()
        modules = re.findall(r"^::: (\S+)", text, flags=re.MULTILINE)
        families[text.splitlines()[0].removeprefix("# ")] = {
            name: function.docstring.value.splitlines()[0]
            for name, function in functions.items()
            if function.module.path in modules
        }
    for name in functions.keys() - {n for family in families.values() for n in family}:
        log.warning("jaxloss.%s is on no page under Losses", name)


def on_page_markdown(markdown, **_):
    """Puts the list of losses in the place of its marker."""
    lines = []
    for title, summaries in families.items():
        lines += [f"### {title}", "", "| Loss | Summary |", "| --- | --- |"]
        lines += [f"| `{name}` | {text} |" for name, text in summaries.items()]
        lines += [""]
    return markdown.replace("<!-- losses -->", "\n".join(lines))


def on_page_content(content, page, **_):
    """Renders the formulas, and links each loss's name to its description."""
    formula = r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>'
    content = re.sub(formula, lambda m: render(m, page), content, flags=re.DOTALL)
    return re.sub(r"<code>(\w+)</code>", link, content)


def render(match, page):
    tag, latex = match[1], html.unescape(match[2])
    try:
        math = convert(latex, display="block" if tag == "div" else "inline")
    except Exception as error:  # the converter has many, none of its own
        log.warning("%s: cannot convert the formula %s (%r)", page.url, latex, error)
        return match[0]
    if "\\" in math or ">&<" in math:  # a command that it let through
        log.warning("%s: cannot convert the formula %s", page.url, latex)
    return f'<{tag} class="formula">{space(math)}</{tag}>'


def space(math):
    """Sets names of functions and bars as TeX does, where the converter does not."""
    # A name without limits is no operator, which would have space on both sides.
    alone = r"(?<!<msub>)(?<!<munder>)"
    math = re.sub(alone + r"<mo>(\w\w+)</mo>", r"<mi>\1</mi>", math)
    bracket = r"<mo[^>]*>(?:&#x00028;|\()"
    thin = '<mspace width="0.167em" />'
    math = re.sub(rf"{alone}(<mi>\w\w+</mi>)(?!{bracket}|</)", rf"\1{thin}", math)
    math = re.sub(r"(</m(?:i|n|s\w+)>)(<mi>\w\w+</mi>)", rf"\1{thin}\2", math)
    return re.sub(r"<mo([^>]*)>&#x0007C;", r'<mo\1 lspace="0" rspace="0">|', math)


def link(match):
    name = match[1]
    if not any(name in family for family in families.values()):
        return match[0]
    return f'<autoref identifier="jaxloss.{name}"><code>{name}</code></autoref>'


class PlainSections(griffe.Extension):
    """Makes ordinary text of the docstring sections that Google's style lacks."""

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
