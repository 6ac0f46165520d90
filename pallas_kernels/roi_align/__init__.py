"""RoIAlign over feature pyramids."""

from pallas_kernels.roi_align.api import IMPLEMENTATIONS, multilevel_roi_align

__all__ = ["IMPLEMENTATIONS", "multilevel_roi_align"]
