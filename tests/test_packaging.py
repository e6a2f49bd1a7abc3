"""What ``pip install`` brings: everything that the package opens at run time, wherever it is installed."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, unpacked. It is built from a copy: setuptools leaves a build directory behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("salad_ds", "data_prep", "ds_configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignore)
    for name in ("setup.py", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("salad_ds-*.whl")
    zipfile.ZipFile(wheel).extractall(out / "site")
    return out / "site"


def test_the_wheel_holds_code_and_data(installed):
    for pattern in (
        "salad_ds/**/*.py",
        "salad_ds/**/*.yaml",
        "salad_ds/**/*.css",
        "data_prep/*.py",
        "ds_configs/*.json",
    ):
        wanted = {str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob(pattern)}
        found = {str(path.relative_to(installed)) for path in installed.glob(pattern)}
        assert wanted and found == wanted, pattern
    assert (installed / "salad_ds/assets/requirements.txt").is_file()
    assert not [path for path in installed.rglob("*") if "tests" in path.parts or path.name == "__pycache__"]


def test_nothing_that_lies_beside_the_code_is_left_behind(installed):
    """Whatever file is added to the package later has to be named in setup.py too."""
    for room in ("salad_ds", "data_prep"):
        for path in (REPOSITORY / room).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (installed / path.relative_to(REPOSITORY)).is_file(), f"{path} is not in the wheel"


def test_what_is_imported_is_declared():
    """Every package that the code imports is a requirement of ours, not only somebody else's."""
    lists = [(REPOSITORY / name).read_text() for name in ("setup.py", "salad_ds/assets/requirements.txt")]
    named = re.findall(r'(?:^|")([A-Za-z][\w-]*)[><=]', "\n".join(lists), re.MULTILINE)
    declared = {name.lower().replace("-", "_") for name in named}
    owners = metadata.packages_distributions()
    own = {"salad_ds", "data_prep", "ds_configs"} | sys.stdlib_module_names
    undeclared = {}
    for path in (path for room in ("salad_ds", "data_prep") for path in (REPOSITORY / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in {name.split(".")[0] for name in names} - own:
                packages = {name.lower().replace("-", "_") for name in owners.get(module, [module])}
                if not packages & declared:
                    undeclared.setdefault(module, path.name)
    assert not undeclared


def test_an_installed_recipe_finds_what_it_names(installed, tmp_path):
    """From anywhere, without the repository."""
    code = """
import salad_ds, salad_ds.config as config
from pathlib import Path
from salad_ds.data.prepare import preparer
from salad_ds.train.engine import deepspeed_config
recipes = Path(salad_ds.__file__).parent / "recipes"
for path in sorted(recipes.glob("*.yaml")):
    recipe = config.load_recipe(path)
    [preparer(corpus.kind) for corpus in recipe.corpora]
demo = config.load_recipe(recipes / "demo.yaml")
deepspeed_config(demo.stages["stage1"].deepspeed, demo.stages["stage1"], 2)
print(Path(salad_ds.__file__).parents[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == installed
