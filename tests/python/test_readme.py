"""The commands, settings and links of README and of the pages that it leads to are real."""

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from hpo.config import Config

ROOT = Path(__file__).parents[2]
PAGES = {
    name: (ROOT / name).read_text()
    for name in (
        "README.md",
        "hpo/SEARCH.md",
        "hpo/EXPERIMENTS.md",
        "emulator/EXPORT.md",
        "fortran_bridge/LIBRARY.md",
        "fortran_bridge/HOSTS.md",
        "fortran_bridge/E3SM.md",
        "fortran_bridge/REVIEWERS.md",
    )
}
README = PAGES["README.md"]
SUBCOMMANDS = "generate|compare|retrain|online|heads|list"
COMMANDS = sorted(
    {
        command
        for name in ("README.md", "hpo/SEARCH.md", "emulator/EXPORT.md", "fortran_bridge/HOSTS.md")
        for command in re.findall(rf"python -m ([\w.]+(?: (?:{SUBCOMMANDS}))?)((?:[^\n`|]|\\\n)*)", PAGES[name])
    }
)
TABLES = [block for page in PAGES.values() for block in re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)]


def test_commands_were_found():
    assert {module for module, _ in COMMANDS} >= {"hpo.search", "emulator.export", "emulator.activation generate"}


@cache
def help_of(module):
    done = subprocess.run(
        [sys.executable, "-m", *module.split(), "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", sorted({m for m, _ in COMMANDS if m not in ("venv", "pytest")}))
def test_every_option_on_the_pages_is_in_the_help(module):
    for options in (options for m, options in COMMANDS if m == module):
        for option in re.findall(r"--[\w-]+", options):
            assert option in help_of(module), f"{module} has no {option}"


def test_every_table_of_settings_is_a_config():
    assert len(TABLES) >= 3
    for block in TABLES:
        Config.from_dict(tomllib.loads(block), block)


def test_every_path_on_the_pages_exists():
    missing = []
    for name, page in PAGES.items():
        paths = re.findall(r"`((?:fortran_bridge|emulator|hpo|tests|cmake)/[\w./-]*|CHANGELOG\.md|LICENSE)`", page)
        links = re.findall(r"\]\((?!https?:)([^)#]+)", page)
        missing += [f"{name}: {p}" for p in paths if not (ROOT / p).exists()]
        missing += [f"{name}: {p}" for p in links if not (ROOT / name).parent.joinpath(p).exists()]
    assert not missing


def test_every_link_to_a_section_leads_to_one():
    missing = []
    for name, page in PAGES.items():
        for path, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", page):
            target = (ROOT / name).parent.joinpath(path).resolve() if path else ROOT / name
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            if anchor not in slugs:
                missing.append(f"{name}: {path}#{anchor}")
    assert not missing


def test_no_slot_was_left_unfilled():
    assert not [name for name, page in PAGES.items() if re.findall(r"@[A-Z_]+@", page)]


def test_make_targets_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target
