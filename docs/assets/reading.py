"""What makes a built page readable: narrow screens, copied code, named strings."""

import html
import re
from pathlib import Path

# Where a long name or call may break: behind these, between the words of a name.
BREAK = re.compile(r"(?<=[_.(,=/])(?=\w)")
TEXTS = re.compile(r">([^<]+)<")
CODE = re.compile(r"<code>.*?</code>", re.DOTALL)
NAME = re.compile(
    r'<span class="(?:md-ellipsis|doc doc-object-name[^"]*)">[^<]*</span>'
)
SESSION = re.compile(r'<pre>((?:(?!</pre>).)*<span class="gp">.*?)</pre>', re.DOTALL)
TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)


def breakable(page: str) -> str:
    """Code and names, with the places where a narrow screen may break them."""

    def broken(element: re.Match[str]) -> str:
        return TEXTS.sub(lambda text: BREAK.sub("<wbr>", text[0]), element[0])

    return NAME.sub(broken, CODE.sub(broken, page))


def copied(page: str) -> str:
    """Sessions whose copy button gives their code, without prompts and output."""

    def with_code(session: re.Match[str]) -> str:
        text = html.unescape(re.sub(r"<[^>]+>", "", session[1]))
        typed = re.findall(r"^(?:>>>|\.\.\.)(?: |$)(.*)$", text, re.MULTILINE)
        code = html.escape("\n".join(typed)).replace("\n", "&#10;")
        return f'<pre data-copy="{code}">{session[1]}</pre>'

    return SESSION.sub(with_code, page)


def labelled(page: str) -> str:
    """Tables of three and more columns whose cells know the head of their column."""

    def with_labels(table: re.Match[str]) -> str:
        heads = re.findall(r"<th[^>]*>(.*?)</th>", table[0], re.DOTALL)
        heads = [re.sub(r"<[^>]+>", "", head) for head in heads]
        if len(heads) < 3:
            return table[0]

        def row(match):
            cells = iter(heads)
            return re.sub("<td", lambda _: f'<td data-label="{next(cells)}"', match[0])

        return re.sub(r"<tr>.*?</tr>", row, table[0], flags=re.DOTALL)

    return TABLE.sub(with_labels, page)


def choices(package: Path) -> dict[str, list[str]]:
    """The strings behind the names that stand for a choice, such as `Reduction`."""
    named = re.compile(r"^(\w+) = Literal\[(.+?)\](.*)$", re.MULTILINE)
    found = {}
    for path in package.rglob("*.py"):
        for name, strings, rest in named.findall(path.read_text()):
            found[name] = strings.split(", ") + rest.split(" | ")[1:]
    return found


def spelled(page: str, named: dict[str, list[str]]) -> str:
    """Signatures that show the strings of a choice, and not the name of its type."""
    for name, strings in named.items():
        spans = (
            f'<span class="s2">{html.escape(s, quote=False)}</span>' for s in strings
        )
        bar = ' <span class="o">|</span> '
        page = page.replace(f'<span class="n">{name}</span>', bar.join(spans))
        type_ = rf'<(autoref|span)[^>]+\.{name}"[^>]*>{name}</\1>'
        page = re.sub(type_, html.escape(" | ".join(strings), quote=False), page)
    return page
