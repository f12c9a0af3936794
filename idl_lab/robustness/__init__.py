"""What can be proven of a model: bounds, certificates, Lipschitz constants; and attacks on it."""

from idl_lab.robustness.attack import fgsm, pgd, sensitivity_attack
from idl_lab.robustness.bounds import Bounds, bounds
from idl_lab.robustness.certify import Certificates, certify
from idl_lab.robustness.export import to_onnx, to_vnnlib
from idl_lab.robustness.losses import interval_loss, interval_margins, sensitivity_penalty
from idl_lab.robustness.sensitivity import lipschitz, sensitivity, tightness

__all__ = ["Bounds", "Certificates", "bounds", "certify", "fgsm", "interval_loss",
           "interval_margins", "lipschitz", "pgd", "sensitivity", "sensitivity_attack",
           "sensitivity_penalty", "tightness", "to_onnx", "to_vnnlib"]
