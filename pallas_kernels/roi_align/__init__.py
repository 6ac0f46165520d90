"""RoIAlign and Shape-aware RoIAlign over feature pyramids."""

from pallas_kernels.roi_align.api import multilevel_roi_align, shape_aware_roi_align
from pallas_kernels.roi_align.choice import IMPLEMENTATIONS

__all__ = ["IMPLEMENTATIONS", "multilevel_roi_align", "shape_aware_roi_align"]
