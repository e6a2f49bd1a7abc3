"""MMLU's development questions (MIT), out of the few-shot prompts that PyPI ``lm-eval`` carries: 280, five of most of
57 subjects, four options. Two of its 282 are left out: one has a fifth option, one begins with the answer before it.

An entry of ``lm_eval/tasks/mmlu/flan_cot_fewshot/mmlu_anatomy.yaml``:

    - question: 'Which of the following is the body cavity that contains the pituitary gland?

        (A) Abdominal (B) Cranial (C) Pleural (D) Spinal'
      target: "Let's think step by step. ... The answer is (B)."

Written as JSON lines of cais/mmlu's columns: question, subject, choices, answer (from 0). The package is not imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from salad_ds.assets.package import REQUIREMENTS
from salad_ds.errors import AssetError
from salad_ds.files import write_text

PACKAGE, VERSION = "lm-eval", "0.4.13"
FOLDER = "lm_eval/tasks/mmlu/flan_cot_fewshot"
DIGEST = "e411838638474845255b7e0464116fc57a493b9f83207bc37cc88aa0df85c0b8"
"""SHA-256 of its mmlu_*.yaml, one after the other in the order of their names."""
ITEM = re.compile(r"(.+?)\s*\(A\)\s*(.+?)\s*\(B\)\s*(.+?)\s*\(C\)\s*(.+?)\s*\(D\)\s*(.+)", re.DOTALL)
SPOILT = "\nactorial"
ANSWER = re.compile(r"The answer is \(([ABCD])\)\.?\s*$")


def build(directory: Path) -> dict[str, Any]:
    """Write ``mmlu_dev.jsonl`` into ``directory``; returns the provenance."""
    files = located()
    found = [item for path in files for item in items_of(path)]
    write_text(directory / "mmlu_dev.jsonl", "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in found))
    return {"registry": "PyPI", "package": PACKAGE, "version": VERSION, "file": f"{FOLDER}/mmlu_*.yaml",
            "sha256": DIGEST, "source": "hendrycks/test, dev split", "items": len(found), "licence": "MIT"}


def located() -> list[Path]:
    """The files. Raises AssetError where they are not those of VERSION."""
    install = f"pip install --no-deps {PACKAGE}=={VERSION} (all of them: -r {REQUIREMENTS})"
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise AssetError(f"the Python package {PACKAGE} is not installed", install) from None
    files = sorted(Path(str(distribution.locate_file(FOLDER))).glob("mmlu_*.yaml"))
    if hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest() != DIGEST:
        raise AssetError(f"{FOLDER} of {PACKAGE} {distribution.version} is damaged, or of another version than "
                         f"{VERSION}", install.replace("install ", "install --force-reinstall ", 1))
    return files


def items_of(path: Path) -> list[dict[str, Any]]:
    entries: Any = OmegaConf.to_container(OmegaConf.load(path))
    items = []
    for entry in entries["fewshot_config"]["samples"]:
        asked, answer = ITEM.fullmatch(entry["question"].strip()), ANSWER.search(entry["target"].strip())
        if asked and answer and SPOILT not in asked[1]:
            items.append({"question": asked[1], "subject": entries["dataset_name"], "choices": list(asked.groups()[1:]),
                          "answer": "ABCD".index(answer[1])})
    return items
