"""What a saved student carries so that ``trust_remote_code=True`` finds its classes: one thin file.

The code of a student is this package: encoders, adapter, head with the loss inside. A copy of those modules in every
saved student would be a second product to maintain, out of step with the first after the next release. So the file only
imports the package, and says so in words where it is not installed.
"""

from __future__ import annotations

from pathlib import Path

from salad_ds.files import write_text

MODULE = "modeling_salad"
AUTO_MAP = {
    "AutoConfig": f"{MODULE}.SaladConfig",
    "AutoModel": f"{MODULE}.SaladForConditionalGeneration",
    "AutoModelForMultimodalLM": f"{MODULE}.SaladForConditionalGeneration",
    "AutoProcessor": f"{MODULE}.SaladProcessor",
}
"""What config.json says of the classes that transformers' Auto classes look for."""

CODE = '''"""The classes of this student for ``trust_remote_code=True``. They live in the package salad_ds."""

try:
    from salad_ds.model.auto import SaladConfig, SaladFeatureExtractor, SaladForConditionalGeneration, SaladProcessor
except ModuleNotFoundError as error:
    if error.name != "salad_ds":
        raise
    raise ImportError(
        "this student needs the Python package salad_ds, which is not installed (and not on PyPI): "
        "install it from its repository, pip install PATH_OR_GIT_URL_OF_salad_ds, then load the student again"
    ) from error
'''


def write_remote_code(directory: Path) -> None:
    """Put the thin file into a directory that a student or its processor is saved to."""
    write_text(directory / f"{MODULE}.py", CODE)
