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
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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


def test_one_file_alone_forms_process_groups():
    found = {f.split()[0] for folder in ("hpo", "emulator") for f in importers(folder, "torch.distributed")}
    assert found == {"hpo/distributed.py"}


def test_the_check_itself_sees_imports(tmp_path):
    (tmp_path / "x.py").write_text("from hpo.study import a\nimport optuna\nfrom torch import distributed\n")
    want = ["hpo.study", "hpo.study.a", "optuna", "torch", "torch.distributed"]
    assert list(imports(tmp_path / "x.py")) == want


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
