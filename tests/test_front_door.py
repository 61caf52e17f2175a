"""The names that a user types: where they live, and what an editor knows of them."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import get_args, get_type_hints

import pytest
from matplotlib.figure import Figure

import satlib
from satlib.captioner import Caption, Captioner
from satlib.encoder import Encoder
from satlib.explorer import Explorer
from satlib.fit import Run, fit


@pytest.mark.parametrize("name", satlib._HOMES)
def test_a_name_is_imported_from_the_module_that_defines_it(name):
    found = getattr(satlib, name)
    assert found.__module__ == f"satlib.{satlib._HOMES[name]}"
    assert found.__doc__


def test_editors_see_the_same_names_in_the_same_modules():
    tree = ast.parse(Path(satlib.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname: node.module.removeprefix("satlib.")
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        for alias in node.names
    }
    assert seen == satlib._HOMES
    assert sorted(satlib.__all__) == sorted([*seen, "__version__"])


def test_a_name_that_is_not_there_is_refused_by_name():
    with pytest.raises(AttributeError, match="no attribute 'load_captoner'"):
        satlib.__getattr__("load_captoner")


@pytest.mark.parametrize(("old", "new"), satlib._OldNames.names.items())
def test_a_module_is_found_under_the_name_that_it_had(old, new):
    assert import_module(old) is import_module(new)


GIVES = {
    satlib.load_captioner: Captioner,
    Captioner.caption: list[Caption],
    satlib.build_encoder: Encoder,
    satlib.explore: Explorer,
    satlib.attention_figure: Figure,
    fit: Run,
}


@pytest.mark.parametrize(
    ("function", "kind"), GIVES.items(), ids=[f.__qualname__ for f in GIVES]
)
def test_an_editor_knows_what_a_function_returns_and_takes(function, kind):
    hints = get_type_hints(function)
    assert hints.pop("return") == kind
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        if default is not parameter.empty and name in hints:
            kinds = get_args(hints[name]) or (hints[name],)
            assert type(default) in kinds, name
            assert (default is None) <= (NoneType in get_args(hints[name]))
        assert name in hints or default is parameter.empty, name


def test_an_editor_knows_the_parts_of_a_caption():
    hints = get_type_hints(Caption)
    assert hints["words"] == list[str]
    assert hints["rivals"] == list[list[tuple[str, float]]]
    assert NoneType not in hints.values()
    assert re.match(r"What a captioner says", Caption.__doc__)
