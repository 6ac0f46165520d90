"""RoI sampling operators for JAX. Depends on jax alone; usable without jaxseg."""

from pallas_kernels.roi_align import (
    IMPLEMENTATIONS,
    multilevel_roi_align,
    shape_aware_roi_align,
)

__all__ = ["IMPLEMENTATIONS", "multilevel_roi_align", "shape_aware_roi_align"]
