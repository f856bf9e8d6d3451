"""The public names: what type checkers are told of is what is loaded. And the examples in docstrings run."""

from __future__ import annotations

import ast
import doctest
import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import featx

PACKAGE = Path(featx.__file__).parent
WITH_EXAMPLES = [
    file.relative_to(PACKAGE.parent).as_posix()
    for file in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


def told_to_type_checkers() -> dict[str, str]:
    """The module of each name that ``featx/__init__.py`` imports for type checkers alone."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    found = {}
    assert ast.unparse(block.body[0]) == "__version__: str"
    for line in block.body[1:]:
        assert isinstance(line, ast.ImportFrom)
        for alias in line.names:
            assert alias.asname == alias.name, f"{alias.name} is not exported without `as {alias.name}`"
            found[alias.name] = str(line.module)
    return found


def test_what_type_checkers_are_told_is_what_is_loaded() -> None:
    assert told_to_type_checkers() == {name: f"featx.{place}" for name, place in featx._PLACES.items()}


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@pytest.mark.parametrize("file", WITH_EXAMPLES)
def test_the_examples_of_docstrings_run(
    file: str, make_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder where ``photos`` has two classes of twelve pictures."""
    make_dataset(each=12, name="photos")
    monkeypatch.chdir(tmp_path)
    tests = doctest.DocTestFinder().find(import_module(module_of(file)))
    said: list[str] = []
    for test in tests:
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert "".join(said) == ""
    assert any(test.examples for test in tests), "there is a prompt, but in no docstring"


@pytest.mark.parametrize("name", [name for name in featx.__all__ if name not in ("BACKBONES", "__version__")])
def test_every_public_name_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(featx, name)) or "")
