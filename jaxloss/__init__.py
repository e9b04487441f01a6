"""Pure, jittable loss functions for JAX with analytic gradients.

Every name in `__all__` is a function of arrays, and `help` on it gives its formula,
gradient, numerics and an example.
"""

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
from jaxloss.divergence import (
    convex_kl_divergence,
    generalized_kl_divergence,
    jensen_shannon_divergence,
    kl_divergence,
    kl_divergence_with_log_targets,
    wasserstein_distance,
)
from jaxloss.embedding import (
    circle_loss,
    cosine_distance,
    cosine_embedding_loss,
    cosine_similarity,
    margin_ranking_loss,
    ntxent,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from jaxloss.margin import (
    categorical_hinge_loss,
    make_fenchel_young_loss,
    multi_margin_loss,
    multiclass_hinge_loss,
    multiclass_perceptron_loss,
    multiclass_sparsemax_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
)
from jaxloss.multiclass import (
    generalized_cross_entropy,
    nll_loss,
    poly_loss_cross_entropy,
    safe_softmax_cross_entropy,
    smooth_labels,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
    softmax_focal_loss,
)
from jaxloss.ranking import ranking_softmax_loss
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
from jaxloss.segmentation import (
    binary_dice_loss,
    dice_loss,
    focal_tversky_loss,
    jaccard_loss,
    multiclass_generalized_dice_loss,
    tversky_loss,
)
from jaxloss.sequence import ctc_loss, ctc_loss_with_forward_probs
from jaxloss.vocabulary import (
    adaptive_softmax_cross_entropy,
    adaptive_softmax_log_probs,
    adaptive_softmax_predict,
    init_adaptive_softmax,
    linear_cross_entropy,
    linear_log_probs,
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
    "categorical_hinge_loss",
    "generalized_cross_entropy",
    "make_fenchel_young_loss",
    "multi_margin_loss",
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poly_loss_cross_entropy",
    "safe_softmax_cross_entropy",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_focal_loss",
    # divergence
    "convex_kl_divergence",
    "generalized_kl_divergence",
    "jensen_shannon_divergence",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "wasserstein_distance",
    # embedding
    "circle_loss",
    "cosine_distance",
    "cosine_embedding_loss",
    "cosine_similarity",
    "margin_ranking_loss",
    "ntxent",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
    # ranking
    "ranking_softmax_loss",
    # sequence
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    # segmentation
    "binary_dice_loss",
    "dice_loss",
    "focal_tversky_loss",
    "jaccard_loss",
    "multiclass_generalized_dice_loss",
    "tversky_loss",
    # vocabulary
    "adaptive_softmax_cross_entropy",
    "adaptive_softmax_log_probs",
    "adaptive_softmax_predict",
    "init_adaptive_softmax",
    "linear_cross_entropy",
    "linear_log_probs",
]
