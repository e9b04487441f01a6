"""Pure, jittable loss functions for JAX with analytic gradients.

Every name in `__all__` is a function of arrays, and `help` on it gives its formula,
gradient, numerics and an example.
"""

from jaxloss.alignment.estimates import kl_estimate
from jaxloss.alignment.odds import orpo_loss
from jaxloss.alignment.policy import cispo_loss, clipped_policy_loss
from jaxloss.alignment.preference import (
    bradley_terry_loss,
    dpo_loss,
    ipo_loss,
    simpo_loss,
)
from jaxloss.alignment.router import router_balance_loss, router_z_loss
from jaxloss.alignment.sequences import sequence_log_probs
from jaxloss.alignment.unpaired import kto_loss
from jaxloss.binary.cross_entropy import (
    binary_cross_entropy,
    sigmoid_binary_cross_entropy,
)
from jaxloss.binary.focal import sigmoid_focal_loss
from jaxloss.binary.margin import (
    hinge_embedding_loss,
    hinge_loss,
    perceptron_loss,
    soft_margin_loss,
    squared_hinge_loss,
)
from jaxloss.binary.sparsemax import sparsemax_loss
from jaxloss.boxes.iou import (
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
)
from jaxloss.contrast.arcface import arcface_loss
from jaxloss.contrast.decorrelation import barlow_twins_loss, vicreg_loss
from jaxloss.contrast.info_nce import info_nce_loss
from jaxloss.contrast.siglip import siglip_loss
from jaxloss.contrast.supervised import supervised_contrastive_loss
from jaxloss.custom import make_loss
from jaxloss.distillation.dense import distillation_loss
from jaxloss.distillation.linear import (
    linear_distillation_loss,
    linear_sparse_distillation_loss,
)
from jaxloss.distillation.sparse import sparse_distillation_loss
from jaxloss.divergence.jensen_shannon import jensen_shannon_divergence
from jaxloss.divergence.relative_entropy import (
    convex_kl_divergence,
    generalized_kl_divergence,
    kl_divergence,
    kl_divergence_with_log_targets,
)
from jaxloss.divergence.wasserstein import wasserstein_distance
from jaxloss.embedding.contrastive import circle_loss, ntxent
from jaxloss.embedding.cosine import (
    cosine_distance,
    cosine_embedding_loss,
    cosine_similarity,
)
from jaxloss.embedding.triplet import (
    margin_ranking_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from jaxloss.forecast.counts import negative_binomial_nll_loss
from jaxloss.forecast.energy import energy_score_loss
from jaxloss.forecast.ensemble import crps_ensemble_loss
from jaxloss.forecast.heavy_tails import student_t_nll_loss
from jaxloss.forecast.survival import cox_partial_likelihood_loss
from jaxloss.multiclass.cross_entropy import (
    safe_softmax_cross_entropy,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from jaxloss.multiclass.fenchel_young import (
    make_fenchel_young_loss,
    multiclass_sparsemax_loss,
)
from jaxloss.multiclass.hinge import (
    categorical_hinge_loss,
    multi_margin_loss,
    multiclass_hinge_loss,
    multiclass_perceptron_loss,
)
from jaxloss.multiclass.likelihood import nll_loss
from jaxloss.multiclass.log_softmax import log_softmax
from jaxloss.multiclass.multilabel import (
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
)
from jaxloss.multiclass.reshaped import (
    generalized_cross_entropy,
    poly_loss_cross_entropy,
    softmax_focal_loss,
)
from jaxloss.multiclass.smoothing import smooth_labels
from jaxloss.ranking import ranking_softmax_loss
from jaxloss.regression.likelihood import gaussian_nll_loss, poisson_nll_loss
from jaxloss.regression.linear import (
    absolute_error,
    epsilon_insensitive_loss,
    quantile_loss,
)
from jaxloss.regression.relative import absolute_percentage_error, squared_log_error
from jaxloss.regression.robust import robust_loss
from jaxloss.regression.smooth import (
    charbonnier_loss,
    huber_loss,
    log_cosh,
    smooth_l1_loss,
)
from jaxloss.regression.squared import l2_loss, squared_error
from jaxloss.segmentation.dice import (
    binary_dice_loss,
    dice_loss,
    multiclass_generalized_dice_loss,
)
from jaxloss.segmentation.lovasz import lovasz_hinge_loss, lovasz_softmax_loss
from jaxloss.segmentation.tversky import focal_tversky_loss, jaccard_loss, tversky_loss
from jaxloss.sequence.ctc import ctc_loss, ctc_loss_with_forward_probs
from jaxloss.sequence.linear_transducer import linear_transducer_loss
from jaxloss.sequence.transducer import transducer_loss
from jaxloss.vocabulary.adaptive import (
    adaptive_softmax_cross_entropy,
    adaptive_softmax_log_probs,
    adaptive_softmax_predict,
    init_adaptive_softmax,
)
from jaxloss.vocabulary.linear import linear_cross_entropy, linear_log_probs
from jaxloss.vocabulary.statistics import (
    SoftmaxStatistics as SoftmaxStatistics,  # a type, not in `__all__`
)
from jaxloss.vocabulary.statistics import (
    linear_statistics,
    softmax_statistics,
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
    "log_softmax",
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
    # distillation
    "distillation_loss",
    "linear_distillation_loss",
    "linear_sparse_distillation_loss",
    "sparse_distillation_loss",
    # embedding
    "circle_loss",
    "cosine_distance",
    "cosine_embedding_loss",
    "cosine_similarity",
    "margin_ranking_loss",
    "ntxent",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
    # contrast
    "arcface_loss",
    "barlow_twins_loss",
    "info_nce_loss",
    "siglip_loss",
    "supervised_contrastive_loss",
    "vicreg_loss",
    # forecast
    "cox_partial_likelihood_loss",
    "crps_ensemble_loss",
    "energy_score_loss",
    "negative_binomial_nll_loss",
    "student_t_nll_loss",
    # ranking
    "ranking_softmax_loss",
    # sequence
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    "linear_transducer_loss",
    "transducer_loss",
    # segmentation
    "binary_dice_loss",
    "dice_loss",
    "focal_tversky_loss",
    "jaccard_loss",
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "multiclass_generalized_dice_loss",
    "tversky_loss",
    # boxes
    "complete_box_iou_loss",
    "distance_box_iou_loss",
    "generalized_box_iou_loss",
    # vocabulary
    "adaptive_softmax_cross_entropy",
    "adaptive_softmax_log_probs",
    "adaptive_softmax_predict",
    "init_adaptive_softmax",
    "linear_cross_entropy",
    "linear_log_probs",
    "linear_statistics",
    "softmax_statistics",
    # alignment
    "bradley_terry_loss",
    "cispo_loss",
    "clipped_policy_loss",
    "dpo_loss",
    "ipo_loss",
    "kl_estimate",
    "kto_loss",
    "orpo_loss",
    "router_balance_loss",
    "router_z_loss",
    "sequence_log_probs",
    "simpo_loss",
    # custom
    "make_loss",
]


def __dir__() -> list[str]:
    """What completion shows: the losses, not the packages that they live in."""
    return [*__all__, "__version__", "__doc__", "__all__"]
