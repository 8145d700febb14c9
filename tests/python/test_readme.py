"""The README's commands are real: each option it names exists, and each file it names is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"python -m ([\w.]+(?: (?:generate|compare|retrain|online))?)([^\n`|]*)", README)))


def test_commands_were_found():
    assert {module for module, _ in COMMANDS} >= {"hpo.search", "emulator.export", "emulator.activation generate"}


@pytest.mark.parametrize(("module", "options"), COMMANDS)
def test_every_option_in_the_readme_is_in_the_help(module, options):
    done = subprocess.run(
        [sys.executable, "-m", *module.split(), "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for option in re.findall(r"--[\w-]+", options):
        assert option in done.stdout, f"{module} has no {option}"


def test_every_path_in_the_readme_exists():
    paths = re.findall(r"`((?:fortran_bridge|emulator|hpo|tests|cmake)/[\w./-]*|CHANGELOG\.md)`", README)
    paths += re.findall(r"\]\((\.images/[\w.]+)\)", README)
    assert len(paths) >= 5
    missing = [p for p in paths if not (ROOT / p).exists()]
    assert not missing


def test_no_slot_was_left_unfilled():
    assert not re.findall(r"@[A-Z_]+@", README)


def test_make_targets_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target
