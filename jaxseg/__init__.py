"""Instance segmentation in JAX: Mask R-CNN and published systems that improve its mask branch.

Start with `jaxseg.methods`. `jaxseg.Predictor` runs a trained model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxseg.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]


def __getattr__(name: str):
    # Loaded when asked for: `import jaxseg` stays light.
    if name == "Predictor":
        from jaxseg.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
