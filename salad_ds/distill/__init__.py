"""The distillation loss: what a teacher says (targets), the one public op (loss), its float64 reference."""

from salad_ds.distill.loss import DistillOutput, fused_linear_distill
from salad_ds.distill.targets import DenseTargets, GhostTargets, HiddenTargets, SparseTargets, Targets

__all__ = ["DenseTargets", "DistillOutput", "GhostTargets", "HiddenTargets", "SparseTargets", "Targets",
           "fused_linear_distill"]
