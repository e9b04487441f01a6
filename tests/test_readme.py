"""The README: its commands, its example, its links, and its list of losses.

`python tests/test_readme.py` writes the list anew, from the names and docstrings.
"""

import contextlib
import inspect
import io
import re
import tomllib
import urllib.parse
from pathlib import Path

import pytest
from namespace import families

import jaxloss

README = Path(__file__).parent.parent / "README.md"
LIST = re.compile(r"(?<=<!-- losses -->\n).*(?=<!-- end of losses -->)", re.DOTALL)


def list_of_losses() -> str:
    """Every public name with its docstring's first line, a table for each family."""
    lines = []
    for family, names in families().items():
        lines += ["", f"**{family}**", "", "| loss | what it is |", "| --- | --- |"]
        for name in names:
            summary = (inspect.getdoc(getattr(jaxloss, name)) or "").splitlines()[0]
            lines.append(f"| `{name}` | {summary.replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, "", ""])


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.M | re.S)


def test_losses_are_listed():
    [listed] = LIST.findall(README.read_text())
    assert listed == list_of_losses(), "run `python tests/test_readme.py`"


def test_badges_are_true():
    """In their alternative texts, and in the addresses of their pictures."""
    project = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]
    [jax] = project["dependencies"]
    expected = {
        "Python": f"≥ {project['requires-python'].removeprefix('>=')}",
        "JAX": f"≥ {jax.removeprefix('jax>=')}",
        "License": project["license"],
    }
    badges = re.findall(r"!\[(\S+?):? ([^]]+)\]\((https://[^)]+)\)", README.read_text())
    assert {label: text for label, text, _ in badges} == expected
    for label, text, address in badges:
        message = f"{label}-{text.replace('-', '--')}-blue"
        assert urllib.parse.unquote(address).endswith(f"/badge/{message}")


def test_commands_are_one_line_each():
    commands = blocks("sh")
    assert len(commands) == 2
    for command in commands:
        assert re.fullmatch(r"python3 -m venv \S+ && .*\n", command)
    assert "papermill" in commands[0]
    assert "pytest" in commands[1]


def test_examples_print_what_their_comments_say():
    """One after the other, in one session; the first is ten lines long."""
    examples = blocks("python")
    assert len([line for line in examples[0].splitlines() if line]) == 10
    names = {}
    for example in examples:
        expected = re.findall(r"^print\(.*\)  # (.*)$", example, re.M)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(example, names)
        assert expected
        assert printed.getvalue().splitlines() == expected


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README.read_text())))
)
def test_link_leads_somewhere(target):
    assert "://" in target or (README.parent / target).exists()


if __name__ == "__main__":
    README.write_text(LIST.sub(lambda _: list_of_losses(), README.read_text()))
