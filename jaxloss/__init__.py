"""Pure, jittable loss functions for JAX with analytic gradients."""

from jaxloss.binary import (
    binary_cross_entropy,
    hinge_embedding_loss,
    hinge_loss,
    perceptron_loss,
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
    soft_margin_loss,
    sparsemax_loss,
    squared_hinge_loss,
)
from jaxloss.multiclass import (
    nll_loss,
    safe_softmax_cross_entropy,
    smooth_labels,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
    softmax_focal_loss,
)
from jaxloss.regression import (
    absolute_error,
    absolute_percentage_error,
    charbonnier_loss,
    epsilon_insensitive_loss,
    gaussian_nll_loss,
    huber_loss,
    l2_loss,
    log_cosh,
    poisson_nll_loss,
    quantile_loss,
    robust_loss,
    smooth_l1_loss,
    squared_error,
    squared_log_error,
)

__version__ = "0.1.0"

__all__ = [
    # regression
    "absolute_error",
    "absolute_percentage_error",
    "charbonnier_loss",
    "epsilon_insensitive_loss",
    "gaussian_nll_loss",
    "huber_loss",
    "l2_loss",
    "log_cosh",
    "poisson_nll_loss",
    "quantile_loss",
    "robust_loss",
    "smooth_l1_loss",
    "squared_error",
    "squared_log_error",
    # binary
    "binary_cross_entropy",
    "hinge_embedding_loss",
    "hinge_loss",
    "perceptron_loss",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "soft_margin_loss",
    "sparsemax_loss",
    "squared_hinge_loss",
    # multiclass
    "nll_loss",
    "safe_softmax_cross_entropy",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_focal_loss",
]
