"""What ``pip install`` brings: everything that the package opens at run time, wherever it is installed."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import salad_ds

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Directory of the sdist and of the wheel that is built from it. From a copy: setuptools leaves things behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("salad_ds", "data_prep", "ds_configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignore)
    for name in ("setup.py", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), "."], cwd=source,
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return out


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """The wheel, unpacked."""
    (wheel,) = built.glob("salad_ds-*.whl")
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)
    return site


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
    own = {"salad_ds", "data_prep", "ds_configs", "_typeshed"} | sys.stdlib_module_names  # the last: of type checkers
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
from salad_ds.model.adapter_weights import find_adapter, read_adapter
from salad_ds.train.engine import deepspeed_config
recipes = Path(salad_ds.__file__).parent / "recipes"
for path in sorted(recipes.glob("*.yaml")):
    recipe = config.load_recipe(path)
    [preparer(corpus.kind) for corpus in recipe.corpora]
found = find_adapter("published:smollm2-135m-whisper-base")
assert read_adapter(found) and (found / "README.md").is_file()
adapter = config.load_recipe(recipes / "smollm2-135m-whisper-base.yaml")
deepspeed_config(adapter.stages["stage1"].deepspeed, adapter.stages["stage1"], 2)
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


def test_the_sdist_builds_and_carries_its_licence(built):
    (archive,) = built.glob("salad_ds-*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"LICENSE", "setup.py", "salad_ds/assets/requirements.txt", "ds_configs/zero3.json"} <= names
    assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]


def test_citation_and_licence_say_what_setup_says():
    said = (REPOSITORY / "CITATION.cff").read_text()
    assert f"\nversion: {salad_ds.__version__}\n" in said and "\nlicense: Apache-2.0\n" in said
    assert "arXiv:2510.13632" in said
    assert 'license="Apache-2.0"' in (REPOSITORY / "setup.py").read_text()
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text()[:200]


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(built, tmp_path):
    """Its own environment, where nothing but the requirements can be seen of this one; started as a user does."""
    venv, (wheel,) = tmp_path / "venv", built.glob("salad_ds-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=120)
    python = venv / "bin/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, timeout=120)
    site = Path(subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True,
                               capture_output=True, text=True).stdout.strip())
    # Behind the wheel's own, and without the .pth files in it, one of which leads to the repository.
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")

    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def said(*command: object) -> str:
        done = subprocess.run([venv / "bin/salad-ds", *command], cwd=tmp_path, env=clean, capture_output=True,
                              text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run([python, "-c", "import salad_ds; print(salad_ds.__file__)"], cwd=tmp_path, check=True,
                           env=clean, capture_output=True, text=True).stdout
    assert Path(where.strip()).parents[1] == site
    assert "Begin: salad-ds run" in said("--help")
    assert said("--version").strip() == f"salad-ds {salad_ds.__version__}"
    assert "name: demo" in said("run", site / "salad_ds/recipes/demo.yaml", "--dry-run")
    assert "salad-ds" in said("completion", "bash")
    recipe = tmp_path / "mine.yaml"
    (tmp_path / "texts.jsonl").write_text('{"text": "he was not an ill disposed young man"}\n')
    recipe.write_text("name: mine\nworkdir: work\nmodel: {llm: none}\n"
                      "corpora: [{kind: text, source: texts.jsonl, out: text}]\n")
    said("prepare", recipe)
    assert (tmp_path / "work/text/manifest.json").is_file()
