"""What a step's bytes would cost on links as fast as their makers say. A calculation: nothing here is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Chip(NamedTuple):
    """What is published of a kind of device.

    Attributes:
      memory: bytes.
      flops: a second, dense, bfloat16.
      link: bytes a second that it sends at most to its neighbours, all links together, in one direction.
      between: likewise between hosts, where those are connected in another way; else None.
      source: who says so.
    """

    memory: float
    flops: float
    link: float
    between: float | None
    source: str


CHIPS: Mapping[str, Chip] = {
    "TPU v5e": Chip(
        15.75 * 2**30,
        197e12,
        200e9,
        None,
        "Google Cloud, docs.cloud.google.com/tpu/docs/v5e (read 2026-11-22): 16 GB, 197 TFLOP/s in bfloat16, ICI of "
        "400 GB/s a chip in both directions together, 4 ports; of 16 GiB its compiler gives 15.75 to a program",
    ),
    "NVIDIA H200": Chip(
        141e9,
        989e12,
        450e9,
        50e9,
        "NVIDIA, H200 data sheet: 141 GB, 989 TFLOP/s dense in bfloat16, NVLink of 900 GB/s in both directions "
        "together; NVIDIA, DGX H200 data sheet: a ConnectX-7 of 400 Gbit/s for each GPU",
    ),
}
UTILISATION = 0.4  # of the peak, that the step's convolutions and products are assumed to reach


def seconds_computing(flops: float, chip: Chip, utilisation: float) -> float:
    """`flops` are those of a device."""
    return flops / (utilisation * chip.flops)


def seconds_sending(sent: float, speed: float) -> float:
    """Of `sent` bytes a device; latency is left out."""
    return sent / speed


def efficiency(computing: float, sending: float) -> float:
    """Speed a device over that of a device alone, if nothing is computed while data are on their way."""
    return computing / (computing + sending)


def over_hosts(sent: float, devices: int, total: int) -> float:
    """What each of `total` devices in a ring sends where each of `devices` sent `sent` bytes for the same arrays."""
    return sent * ((total - 1) / total) / ((devices - 1) / devices)
