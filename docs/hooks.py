"""What the site needs beyond MkDocs' plugins.

Formulas become MathML while the site is built, which browsers render without a script
or a font from elsewhere. The list of losses is read from the package. What a page shows
of jaxloss at work is made while the site is built, from the jaxloss that it describes,
and put in the place of a marker.
"""

import functools
import html
import json
import logging
import re
from pathlib import Path

import griffe
from assets import gallery, notebooks, numerics, performance, planned, project, reading
from latex2mathml.converter import convert
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

log = logging.getLogger("mkdocs.hooks.jaxloss")

# The public names and the first lines of their docstrings, by the page they stand on.
families: dict[str, dict[str, str]] = {}
# The strings of each type that stands for a choice.
choices: dict[str, list[str]] = {}


def on_config(config):
    """Reads the list of losses; a public name without a page is an error."""
    root = Path(config.docs_dir)
    package = griffe.load("jaxloss", search_paths=[root.parent])
    functions = {str(name): package[str(name)].final_target for name in package.exports}
    choices.update(reading.choices(root.parent / "jaxloss"))
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
    shelf = next(item for item in config.nav if "Notebooks" in item)
    shelf["Notebooks"] = [f"notebooks/{name}.md" for name in notebooks.names()]


def on_files(files, config):
    """Adds the notebooks, the project's texts, and the pictures, light and dark."""
    made = pictures() | project.pages(Path(config.docs_dir).parent)
    for name in notebooks.names():
        made = made | notebooks.files(name)
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))


@functools.cache  # `mkdocs serve` builds again and again, of the same package
def pictures():
    content = {}
    for name in [name for family in families.values() for name in family]:
        if name not in gallery.CARDS:
            log.warning("jaxloss.%s has no card in docs/assets/gallery.py", name)
            continue
        light, dark = gallery.picture(name)
        content[f"assets/gallery/{name}.svg"] = light
        content[f"assets/gallery/{name}-dark.svg"] = dark
    return content


def on_page_markdown(markdown, page, **_):
    """Puts what is made in the place of its marker; ranks pages for the search.

    A word of a title counts a thousand times as much as one of a text.
    """
    ranks = {"coming-from/": 0.5, "notebooks/": 1e-3}
    ranks |= dict.fromkeys(("which-loss/", "losses/", "gallery/"), 0.01)
    ranks |= {f"{name.removesuffix('.md').lower()}/": 1e-3 for name in project.FILES}
    for folder, boost in ranks.items():
        if page.url.startswith(folder):
            page.meta.setdefault("search", {"boost": boost})
    for marker, make in MARKERS.items():
        if marker in markdown:
            markdown = markdown.replace(marker, "\n".join(make()))
    if page.url.startswith("api/"):  # the names of a long page stand at its head
        title, rest = markdown.split("\n", 1)
        summaries = families[title.removeprefix("# ")]
        if len(summaries) > 1:
            head = [
                "<div markdown data-search-exclude>",
                "",
                *index(summaries),
                "",
                "</div>",
            ]
            markdown = "\n".join([title, "", *head, "", rest])
    return markdown


def list_of_losses():
    for title, summaries in families.items():
        yield from (f"## {title}", "", *index(summaries), "")


def index(summaries):
    yield from ("| Loss | Summary |", "| --- | --- |")
    yield from (f"| `{name}` | {text} |" for name, text in summaries.items())


def cards():
    for title, summaries in families.items():
        yield from (f"## {title}", "", '<div class="gallery" markdown>', "")
        for name, summary in summaries.items():
            if name in gallery.CARDS:
                caption = f"`{name}`<br>{summary}"
                yield f'<figure markdown="span">\n{image(name)}\n'
                yield f"<figcaption markdown>{caption}</figcaption>\n</figure>"
        yield from ("", "</div>", "")


def image(name):
    """The light and the dark picture, of which the theme shows one."""
    url, alt = f"assets/gallery/{name}", gallery.CARDS[name].alt
    return (
        f"![{alt}]({url}.svg#only-light){{ loading=lazy }}"
        f"![{alt}]({url}-dark.svg#only-dark){{ loading=lazy }}"
    )


MARKERS = {
    "<!-- losses -->": list_of_losses,
    "<!-- gallery -->": cards,
    "<!-- numerics -->": numerics.page,
    "<!-- benchmarks -->": performance.page,
    "<!-- planned -->": planned.page,
}


def on_page_content(content, page, **_):
    """Renders the formulas, shows each loss and links its name to its description."""
    formula = r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>'
    content = re.sub(formula, lambda m: render(m, page), content, flags=re.DOTALL)
    contents = r'<h2 id="jaxloss(?:\.\w+)+?\.(\w+)".*?<div class="doc doc-contents ">'
    content = re.sub(contents, lambda m: show(m, page), content, flags=re.DOTALL)
    content = content.replace(RETURNS, conventions(page) + RETURNS)
    content = reading.spelled(content, choices)
    content = reading.labelled(reading.copied(content))
    if page.url == "coming-from/":  # the first cell of a row has another library's name
        parts = re.split(r"(<tr>\s*<td.*?</td>)", content, flags=re.DOTALL)
        parts[::2] = map(linked, parts[::2])
        return "".join(parts)
    return linked(content)


def linked(content):
    """The names of losses, each with a link to its description."""
    return re.sub(r"(?<=<code>)(\w+)(?=\(|</code>)", link, content)


def on_post_build(config):
    """The search ranks a short name above a long one, and above the title of a page."""
    path = Path(config.site_dir) / "search" / "search_index.json"
    index = json.loads(path.read_text())
    for entry in index["docs"]:
        page, _, section = entry["location"].partition("#")
        if page.startswith("api/"):
            common = 1.1 if page == "api/multiclass/" else 1
            words = len(entry["title"].split("_"))
            loss = section and entry["title"].islower()
            entry["boost"] = 3 * common / words**0.5 if loss else 0.01
    path.write_text(json.dumps(index))


def on_post_page(output, **_):
    """Last of all, so that the search knows no place of a line break."""
    return reading.breakable(output)


RETURNS = '<p><span class="doc-section-title">Returns:</span></p>'


def conventions(page):
    """The line behind a loss's arguments; the docstrings say only what is special."""
    url = get_relative_url("conventions/", page.url)
    return (
        f'<p data-search-exclude>The <a href="{url}">conventions</a> of all losses '
        "apply: masks and weights, dtypes, shapes, bad input, derivatives.</p>\n"
    )


def show(match, page):
    """The description of a loss begins with its picture."""
    name = match[1]
    if name not in gallery.CARDS:
        return match[0]
    folder = get_relative_url("assets/gallery/", page.url)
    alt = html.escape(gallery.CARDS[name].alt)
    return match[0] + "".join(
        f'<img class="card" src="{folder}{name}{suffix}.svg#only-{scheme}" alt="{alt}">'
        for suffix, scheme in (("", "light"), ("-dark", "dark"))
    )


def render(match, page):
    tag, latex = match[1], html.unescape(match[2])
    try:
        math = convert(latex, display="block" if tag == "div" else "inline")
    except Exception as error:  # the converter has many, none of its own
        log.warning("%s: cannot convert the formula %s (%r)", page.url, latex, error)
        return match[0]
    math = math.replace(r"\_", "_")  # in a text it is left as it is
    if "\\" in math or ">&<" in math:  # a command that it let through
        log.warning("%s: cannot convert the formula %s", page.url, latex)
    long = " long" if len(re.sub(r"<[^>]+>", "", html.unescape(math))) > 32 else ""
    return f'<{tag} class="formula{long}">{space(math)}</{tag}>'


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
    return f'<autoref identifier="jaxloss.{name}">{name}</autoref>'
