"""The package as a whole: its names, its version, and what importing it brings in."""

import ast
import importlib
import importlib.metadata
import importlib.resources
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from namespace import families

import jaxloss

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "jaxloss"

FAMILIES = ["regression", "binary", "multiclass", "divergence", "distillation"]
FAMILIES += ["embedding", "contrast", "forecast", "ranking", "sequence", "segmentation"]
FAMILIES += ["boxes", "vocabulary", "alignment", "custom"]

# What `import jaxloss` may add to `import jax`, in seconds of this process: other
# processes of the suite run at the same time.
IMPORT_BUDGET = 0.2


def test_names_are_grouped_by_family_and_sorted():
    groups = families()
    assert list(groups) == [family for family in FAMILIES if family in groups]
    assert [name for names in groups.values() for name in names] == jaxloss.__all__
    for names in groups.values():
        assert names == sorted(names)
    assert len(set(jaxloss.__all__)) == len(jaxloss.__all__)


@pytest.mark.parametrize("name", jaxloss.__all__)
def test_name_is_a_function_of_its_family(name):
    function = getattr(jaxloss, name)
    assert inspect.isfunction(function)
    assert function.__name__ == name
    module = function.__module__.removeprefix("jaxloss.").split(".")[0]
    [family] = [family for family, names in families().items() if name in names]
    assert module == family


def test_every_public_function_is_exported():
    found = set()
    for info in pkgutil.walk_packages(jaxloss.__path__, "jaxloss."):
        if "._" in info.name:
            continue
        module = importlib.import_module(info.name)
        found |= {
            name
            for name, value in vars(module).items()
            if inspect.isfunction(value)
            and value.__module__ == module.__name__
            and not name.startswith("_")
        }
    assert found == set(jaxloss.__all__)


def test_package_is_marked_as_typed():
    assert (importlib.resources.files("jaxloss") / "py.typed").is_file()


def test_version_is_that_of_the_changelog():
    [newest, *_] = re.findall(
        r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert jaxloss.__version__ == newest


def test_version_is_that_of_the_installed_package():
    try:
        installed = importlib.metadata.version("jaxloss")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("jaxloss is not installed")
    assert jaxloss.__version__ == installed


FILES = sorted(SOURCES.rglob("*.py"))


def each(paths):
    return pytest.mark.parametrize(
        "path", paths, ids=lambda p: str(p.relative_to(SOURCES))
    )


each_module = each([path for path in FILES if path.name != "__init__.py"])


def imported_from(path):
    """The modules that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "a relative import"
            yield node.module


@each_module
def test_family_stands_on_the_core_alone(path):
    family = path.relative_to(SOURCES).with_suffix("").parts[0]
    own = [name for name in imported_from(path) if name.startswith("jaxloss")]
    assert {name.split(".")[1] for name in own} <= {family, "_core"}


@each_module
def test_module_can_be_read_at_a_sitting(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 60, node.name


# JAX itself imports what it finds installed, so the modules that are loaded afterwards
# say nothing; .ci/run imports the wheel in an environment that has JAX alone.
@each(FILES)
def test_module_imports_jax_numpy_and_the_standard_library_alone(path):
    packages = {name.split(".")[0] for name in imported_from(path)}
    assert packages <= {"jaxloss", "jax", "numpy"} | sys.stdlib_module_names


def test_import_adds_little_to_that_of_jax(tmp_path):
    """With bytecode, as pip installs it, and without a collection of JAX's objects."""
    code = (
        "import gc, time, jax; gc.freeze(); start = time.process_time(); "
        "import jaxloss; print(time.process_time() - start)"
    )
    command = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    seconds = [float(subprocess.check_output(command, env=env)) for _ in range(3)]
    assert min(seconds) < IMPORT_BUDGET
