"""Students in vLLM. vLLM finds ``register`` by itself, through the entry point ``vllm.general_plugins``:

    vllm serve runs/demo/stage2/model
    vllm.LLM(student).generate({"prompt": "<|audio|> The word is", "multi_modal_data": {"audio": [(wave, rate)]}})

State: written against the interfaces of vLLM 0.33 (model.py), which needs a GPU build of torch. It has not been run.
"""

from __future__ import annotations

from salad_ds.errors import SaladError

ARCHITECTURE = "SaladForConditionalGeneration"
MODEL = "salad_ds.vllm_plugin.model:SaladForVllm"
"""Imported when a student is served, not when vLLM starts."""


def register() -> None:
    """Make students known to vLLM and to transformers' Auto classes; a second call changes nothing.

    Raises SaladError where there is no vLLM.
    """
    try:
        from vllm import ModelRegistry
    except ImportError as error:
        raise SaladError(f"vLLM is not there to be told of students ({error})",
                         "pip install vllm, in an environment with a GPU") from None
    import salad_ds.model.auto  # noqa: F401  (config.json of a student is read with AutoConfig)

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, MODEL)
