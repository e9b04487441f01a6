"""Every public function's docstring is complete, ordered and agrees with its signature.

The examples in it are doctests, which pytest collects from `jaxloss` itself.
"""

import inspect
import re

import pytest

import jaxloss

SECTIONS = ["Args", "Returns", "Gradient", "Numerics", "Raises", "Example"]
SECTIONS += ["References"]
# What docs/conventions.md promises for every loss is not repeated in each: these stand
# only where a loss has something of its own to say.
OPTIONAL = {"Numerics", "Raises"}

# An alias says in a few lines what it is an alias of, and why it exists.
ALIASES = {
    "safe_softmax_cross_entropy": "softmax_cross_entropy",
    "convex_kl_divergence": "generalized_kl_divergence",
}
ALIAS_LINES = 12

# What the arguments that every loss shares say, wherever they mean the same.
SHARED = {
    "where": "Boolean mask; False entries are excluded.",
    "weights": "Real weights per example.",
    "reduction": '"none", "sum" or "mean" (weighted).',
}

every_name = pytest.mark.parametrize("name", jaxloss.__all__)
every_function = pytest.mark.parametrize(
    "name", [name for name in jaxloss.__all__ if name not in ALIASES]
)


def parse(name):
    """The summary, the text up to the first section, and the sections by heading."""
    lines = (inspect.getdoc(getattr(jaxloss, name)) or "").split("\n")
    blocks = {"": []}
    heading = ""
    for line in lines[1:]:
        match = re.fullmatch(r"(\w+):", line)
        if match:
            heading = match[1]
            assert heading not in blocks, f"{heading} comes twice"
            blocks[heading] = []
        else:
            blocks[heading].append(line)
    text, *sections = ("\n".join(block) for block in blocks.values())
    return lines[0], text, dict(zip(list(blocks)[1:], sections, strict=True))


def items(section):
    """The entries `name: text` of a section, each text on one line."""
    entries = re.split(r"^    (\w+): ", section, flags=re.MULTILINE)
    assert not entries[0].strip()
    texts = [" ".join(text.split()) for text in entries[2::2]]
    return list(zip(entries[1::2], texts, strict=True))


@every_name
def test_summary_says_what_the_loss_is(name):
    """ "Huber loss: quadratic up to `delta`, linear beyond." It heads plain lists."""
    summary, text, _ = parse(name)
    assert re.fullmatch(r"[A-Z0-9][^.$]+\.", summary)
    assert not re.match(r"(Returns|Computes|Makes|Gives|Initializes) ", summary)
    assert text.startswith("\n")


@pytest.mark.parametrize(("name", "target"), ALIASES.items())
def test_alias_is_told_in_a_few_lines(name, target):
    lines = inspect.getdoc(getattr(jaxloss, name)).splitlines()
    assert len(lines) <= ALIAS_LINES
    assert any(f"`{target}`" in line for line in lines)


@every_name
def test_conventions_are_not_repeated(name):
    """The documentation adds the link; a plain `help` shows no markup of it."""
    text = " ".join(inspect.getdoc(getattr(jaxloss, name)).split())
    for phrase in (
        "[conventions][]",
        "Computes in float32",
        "An empty or fully masked input",
        "`reduction` is unknown",
        "`where` not boolean",
    ):
        assert phrase not in text


def test_summaries_differ():
    summaries = [parse(name)[0] for name in jaxloss.__all__]
    assert len(set(summaries)) == len(summaries)


@every_function
def test_sections_stand_in_order(name):
    _, _, sections = parse(name)
    expected = [h for h in SECTIONS if h in sections or h not in OPTIONAL]
    assert list(sections) == expected
    for heading, section in sections.items():
        assert section.strip(), f"{heading} is empty"


@every_function
def test_text_says_when_to_choose_it_and_gives_the_formula(name):
    _, text, _ = parse(name)
    choose, formula = text.find("Choose "), text.find("$$")
    assert 0 < choose < formula
    assert text.count("$$") % 2 == 0


@every_function
def test_arguments_are_those_of_the_signature(name):
    _, _, sections = parse(name)
    signature = inspect.signature(getattr(jaxloss, name))
    assert [argument for argument, _ in items(sections["Args"])] == [
        *signature.parameters
    ]


@every_function
def test_shared_arguments_share_their_sentences(name):
    signature = inspect.signature(getattr(jaxloss, name))
    reduction = signature.parameters.get("reduction")
    if reduction is None or reduction.default != "none":
        pytest.skip("reduces in a way of its own")
    texts = dict(items(parse(name)[2]["Args"]))
    for argument, sentence in SHARED.items():
        assert texts[argument].startswith(sentence)


@every_function
def test_raises_names_exceptions_and_conditions(name):
    sections = parse(name)[2]
    if "Raises" not in sections:
        return
    exceptions = items(sections["Raises"])
    assert {exception for exception, _ in exceptions} <= {"TypeError", "ValueError"}
    for _, condition in exceptions:
        assert re.fullmatch(r"If .+\.", condition)


@every_function
def test_example_calls_the_function_and_shows_a_result(name):
    lines = [line.strip() for line in parse(name)[2]["Example"].strip().split("\n")]
    assert ">>> import jaxloss as jl" in lines
    assert any(f"jl.{name}(" in line for line in lines if line.startswith(">>> "))
    assert not lines[-1].startswith((">>>", "..."))


def test_examples_are_collected(pytestconfig):
    assert "jaxloss" in pytestconfig.getini("testpaths")
    assert "--doctest-modules" in pytestconfig.getini("addopts")


@every_function
def test_references_carry_a_link(name):
    references = parse(name)[2]["References"]
    for reference in re.split(r"\n\s*\n", references.strip()):
        assert re.search(r"https://\S+?(, (section|equation)s? .+)?$", reference)


@every_function
def test_formulas_are_not_eaten_by_escapes(name):
    """A formula in a docstring that is not raw loses \\text, \\frac, \\beta, ..."""
    assert not re.search(r"[\t\f\b\a\v\r]", getattr(jaxloss, name).__doc__)
