"""Arrows between the parts point one way, and the public API is the list it is meant to be."""

import ast
from pathlib import Path

import pytest

import emulator

ROOT = Path(__file__).parents[2]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def importers(folder, *forbidden):
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in imports(path)
        if any(name == f or name.startswith(f"{f}.") for f in forbidden)
    ]


def test_emulator_imports_neither_hpo_nor_optuna():
    assert importers("emulator", "hpo", "optuna") == []


def test_only_the_case_study_knows_about_aerosols():
    found = importers("hpo", "emulator.activation") + [
        f for f in importers("emulator", "emulator.activation") if not f.startswith("emulator/activation/")
    ]
    assert found == []


def test_the_check_itself_sees_imports(tmp_path):
    (tmp_path / "x.py").write_text("from hpo.study import a\nimport optuna\n")
    assert list(imports(tmp_path / "x.py")) == ["hpo.study", "optuna"]


def test_the_public_api_is_frozen():
    assert emulator.__all__ == [
        "Bundle",
        "Column",
        "LibEmulator",
        "MLPSpec",
        "Normaliser",
        "Parts",
        "SampleFile",
        "build_mlp",
        "load_bundle",
        "save_bundle",
        "split_rows",
    ]
    for name in emulator.__all__:
        assert getattr(emulator, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = emulator.nothing
