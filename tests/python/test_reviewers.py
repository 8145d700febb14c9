"""fortran_bridge/REVIEWERS.md: every answer names tests that exist, and files that exist."""

import ast
import itertools
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "fortran_bridge" / "REVIEWERS.md"

CODE = re.compile(r"`([^`]+)`")
CTEST = re.compile(r"`((?:c|fortran|builds)\.[a-z0-9_]+)`")


def answers(text):
    """Title and text of each question on the page."""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in parts}


def named_tests(text):
    """Tests of pytest (file, name) and of ctest that a text names."""
    pytests = [tuple(code.split("::", 1)) for code in CODE.findall(text) if "::" in code]
    return pytests, CTEST.findall(text)


def pytest_names(path):
    """Test functions that pytest finds in a file, from its source: no test needs its imports for that."""
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def ctest_names():
    """Tests that the CMake files add, their loops unrolled."""
    found = set()
    for path in REPOSITORY.glob("tests/**/CMakeLists.txt"):
        loops = []
        for line in path.read_text().splitlines():
            if begin := re.match(r"\s*foreach\((\w+)\s+(.*)\)", line):
                loops.append((begin[1], begin[2].split()))
            elif re.match(r"\s*endforeach\(", line):
                loops.pop()
            elif built := re.match(r"test_build\((\w+)", line):  # a function of tests/builds
                found.add(f"builds.{built[1]}")
            elif added := re.search(r"add_test\(NAME\s+(\S+)", line):
                for values in itertools.product(*(items for _, items in loops)):
                    name = added[1]
                    # inner loops first: their items may hold the outer variables
                    for (variable, _), value in reversed(list(zip(loops, values, strict=True))):
                        name = name.replace("${" + variable + "}", value)
                    found.add(name)
    return found


QUESTIONS = answers(PAGE.read_text())


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_answer_names_a_test_and_every_test_that_is_named_exists(question):
    pytests, ctests = named_tests(QUESTIONS[question])
    assert pytests or ctests, "no test is named"
    for file, name in pytests:
        path = REPOSITORY / file
        assert path.is_file(), f"{file} does not exist"
        assert name in pytest_names(path), f"{file} has no test {name}"
    missing = set(ctests) - ctest_names()
    assert not missing, f"no CMake file adds {missing}"


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_file_that_an_answer_names_exists(question):
    paths = [code for code in CODE.findall(QUESTIONS[question]) if "/" in code and "::" not in code and " " not in code]
    missing = [path for path in paths if not (REPOSITORY / path).exists()]
    assert not missing


def test_a_test_that_is_gone_would_be_noticed():
    name = "test_every_file_that_an_answer_names_exists"
    file = "tests/python/test_reviewers.py"
    text = f"`{file}::{name}`, `{file}::{name}_not` and `c.no_such_test`"
    pytests, ctests = named_tests(text)
    known = pytest_names(Path(__file__))
    assert [found in known for _, found in pytests] == [True, False]
    assert not set(ctests) & ctest_names()
