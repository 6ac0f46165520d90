"""COCO's 80 classes with their official ids, and torchvision's 90 labels, ten of which COCO never used."""

from __future__ import annotations

from jaxseg.data.source import Category

_NAMES = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant N/A stop_sign parking_meter bench
bird cat dog horse sheep cow elephant bear zebra giraffe N/A backpack umbrella N/A N/A handbag tie suitcase frisbee skis
snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle N/A wine_glass cup fork
knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed N/A
dining_table N/A N/A toilet N/A tv laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator N/A
book clock vase scissors teddy_bear hair_drier toothbrush
"""

# Ids 1..90; the unused ones are "N/A 12" and so on, since names must differ.
TORCHVISION90 = tuple(
    Category(i, f"N/A {i}" if name == "N/A" else name.replace("_", " "))
    for i, name in enumerate(_NAMES.split(), 1)
)
COCO80 = tuple(category for category in TORCHVISION90 if not category.unused)
