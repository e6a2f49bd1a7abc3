"""The LLM's head with the distillation loss inside its own forward.

Under ZeRO-3 ``lm_head.weight`` is whole only while the module that owns it runs its forward (and is gathered again for
its backward). Computing the loss here, rather than in the training loop, is what makes the fused op right with sharded,
tied and untied weights alike.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from salad_ds.distill import DistillOutput, Targets, fused_linear_distill
from salad_ds.errors import RecipeError


class DistillHead(nn.Linear):
    """``nn.Linear`` that returns logits, or the loss when it is given targets or labels."""

    logit_scale: float = 1.0
    logit_softcap: float | None = None

    def forward(  # type: ignore[override]  # more than Linear's, on purpose: an LLM calls it with ``hidden`` alone
        self,
        hidden: Tensor,
        targets: Targets | None = None,
        labels: Tensor | None = None,
        alpha: float = 1.0,
        temperature: float = 1.0,
        reduction: str = "sum",
    ) -> Tensor | DistillOutput:
        if targets is None and labels is None:
            return super().forward(hidden)
        return fused_linear_distill(
            hidden,
            self.weight,
            targets,
            labels,
            alpha,
            reduction=reduction,
            logit_scale=self.logit_scale,
            logit_softcap=self.logit_softcap,
            temperature=temperature,
        )


def install_distill_head(llm: PreTrainedModel) -> DistillHead:
    """Turn the LLM's output layer into a DistillHead in place: same parameter, same name, same tying.

    Raises RecipeError for an output layer that is not a bias-free linear map.
    """
    head = llm.get_output_embeddings()
    if isinstance(head, DistillHead):
        return head
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise RecipeError(
            f"the output layer of {type(llm).__name__} is not a bias-free nn.Linear but {type(head).__name__}",
            "use another LLM",
        )
    head.__class__ = DistillHead
    assert isinstance(head, DistillHead)
    head.logit_scale, head.logit_softcap = logit_transform(llm.config)
    return head


def logit_transform(config: PretrainedConfig) -> tuple[float, float | None]:
    """(scale, soft cap) that this LLM applies to its logits: Cohere multiplies, Granite divides, Gemma-2 caps."""
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    if getattr(config, "logits_scaling", None):
        scale /= float(config.logits_scaling)
    return scale, getattr(config, "final_logit_softcapping", None)
