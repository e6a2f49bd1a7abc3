"""The student in transformers' Auto classes. Importing this module is enough: ``AutoConfig``, ``AutoModel``,
``AutoModelForMultimodalLM``, ``AutoFeatureExtractor`` and ``AutoProcessor`` then know saved students, without
``trust_remote_code``. (``import salad_ds`` alone loads neither torch nor transformers, so that the command line answers
at once.)"""

from salad_ds.model.processing import SaladFeatureExtractor, SaladProcessor
from salad_ds.model.salad import SaladConfig, SaladForConditionalGeneration

__all__ = ["SaladConfig", "SaladFeatureExtractor", "SaladForConditionalGeneration", "SaladProcessor"]
