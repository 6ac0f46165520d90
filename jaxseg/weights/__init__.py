"""Weights of torchvision, Detectron2, MMDetection and timm as ours, and ours as torchvision's. See docs/weights.md.

  state_dict = weights.load_file("model.pth")
  imported = weights.from_torchvision(state_dict, config)
  imported.params, imported.batch_stats; print(imported.report)

`python -m jaxseg.weights` does it from the command line.
"""

from jaxseg.weights.convert import Imported
from jaxseg.weights.files import load_file, save_safetensors
from jaxseg.weights.hub import resolve
from jaxseg.weights.layouts import (
    from_any,
    from_detectron2,
    from_mmdet,
    from_torchvision,
    to_torchvision,
)
from jaxseg.weights.recognise import recognise
from jaxseg.weights.report import Report

__all__ = [
    "Imported",
    "Report",
    "from_any",
    "from_detectron2",
    "from_mmdet",
    "from_torchvision",
    "load_file",
    "recognise",
    "resolve",
    "save_safetensors",
    "to_torchvision",
]
