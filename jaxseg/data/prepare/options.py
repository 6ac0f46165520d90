"""What the command line says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says; `images`, `annotations`, `splits` as in `catalogue`.

    Attributes:
      kind: coco, lvis, cityscapes or folder.
      data_dir: below it the data set goes to NAME/VERSION.
      name: NAME; "": that of the kind.
      partial: whether less than everything will do.
      shard_mb: megabytes (10**6 bytes) of images in a shard.
    """

    kind: str
    images: str
    annotations: str
    data_dir: str
    splits: Sequence[str] = ()
    name: str = ""
    partial: bool = False
    shard_mb: int = 256
