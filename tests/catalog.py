"""The catalogue: one short entry for every public name.

The tests of the rules that all losses share run over it. The entries stand in
`cases/`, one module for each family, beside the definitions that they refer to.

To add a loss, write its reference and append a `Case` to its family's `CASES`:

- the reference takes the arguments by the loss's own names, as NumPy float64 or int64
  arrays, and returns the per-example loss from its definition, sharing nothing with
  the implementation: simple and slow is right;
- `inputs` holds what belongs to single examples, batch axis first, six examples, hard
  and soft cases, nothing symmetric, and nothing within 0.02 of a kink: derivatives are
  checked by finite differences there. Integer arrays have no derivative;
- `parameters` holds the real hyperparameters that all examples share, `options` what
  is no array. Give hyperparameters values other than their defaults;
- a second `Case` with a `variant` covers another branch of the same loss.

The comments at the fields of `Case` say what else an entry can state. Every rule then
holds for the new loss or fails by its name; `pytest -k huber_loss` runs one loss.
"""

from cases import (
    alignment,
    binary,
    boxes,
    contrast,
    custom,
    distillation,
    divergence,
    embedding,
    forecast,
    margin,
    multiclass,
    ranking,
    regression,
    segmentation,
    sequence,
    vocabulary,
)
from cases.case import Case

__all__ = ["CASES", "Case"]

CASES = [
    *regression.CASES,
    *binary.CASES,
    *multiclass.CASES,
    *margin.CASES,
    *divergence.CASES,
    *distillation.CASES,
    *embedding.CASES,
    *forecast.CASES,
    *contrast.CASES,
    *ranking.CASES,
    *segmentation.CASES,
    *sequence.CASES,
    *boxes.CASES,
    *vocabulary.CASES,
    *alignment.CASES,
    *custom.CASES,
]
