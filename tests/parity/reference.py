"""torchvision's recorded stages, and the weights that they were recorded with."""

from __future__ import annotations

import json
import pathlib
import zlib

import numpy as np

HERE = pathlib.Path(__file__).parent
MOST = 2048  # values that the extract keeps of a stage


def thin(array: np.ndarray) -> np.ndarray:
    """About `MOST` values of an array, spread evenly: what is stored, and what of ours is compared with it."""
    step = -(-array.size // MOST)
    step += 1 - step % 2  # odd: most lengths of axes are even, and the same column would come back
    return array.reshape(-1)[::step]


class Reference:
    """The arrays of one recording (`r18` or `r50`; see README.md), by name; `meta` says how it was made."""

    def __init__(self, path: pathlib.Path):
        self._arrays = {}
        for file in (path, path.with_name("images.npz")):
            with np.load(file) as arrays:
                self._arrays |= {name: arrays[name] for name in arrays.files}
        self.meta = json.loads(str(self._arrays.pop("meta")))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def names(self) -> list[str]:
        return list(self._arrays)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The weights, in torchvision's names."""
        meta = self.meta
        return {
            key: _tensor(
                meta["seed"], key, shape, meta["gains"].get(key, 1.0), meta["biases"].get(key)
            )
            for key, shape in meta["spec"]
        }

    def levels(self, prefix: str) -> list[tuple[str, str, int]]:
        """(name, level, step between recorded pixels) of a stage at each level: `fpn_0_sub_4` is (.., "0", 4)."""
        found = []
        for name in self._arrays:
            if name.startswith(f"{prefix}_"):
                level, *rest = name.removeprefix(f"{prefix}_").split("_")
                found.append((name, level, int(rest[1]) if rest else 1))
        return found


def load(name: str) -> Reference:
    return Reference(HERE / f"{name}.npz")


def _tensor(seed: int, key: str, shape: list[int], gain: float, bias) -> np.ndarray:
    """A function of its arguments alone, the same bits in every release of NumPy: `RandomState` is frozen."""
    kind = key.rsplit(".", 1)[-1]
    noise = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode())).standard_normal(shape)
    if kind == "running_mean":
        value = 0.2 * gain * noise
    elif kind == "running_var":
        value = gain * gain * np.exp(0.25 * noise)
    elif kind == "weight" and len(shape) == 1:  # of a norm
        value = gain * np.exp(0.2 * noise)
    elif kind == "bias":
        value = 0.1 * gain * noise if bias is None else np.reshape(bias, shape)
    else:
        centred, inputs = _centred(noise, "conv5_mask" in key)
        value = centred * gain * np.sqrt(2.0 / inputs)
    return value.astype(np.float32)


def _centred(noise: np.ndarray, transposed: bool) -> tuple[np.ndarray, int]:
    """Without mean over the inputs, and their number; a transposed convolution's are its first axis only."""
    if transposed:
        return noise - noise.mean(0, keepdims=True), noise.shape[0]
    flat = noise.reshape(noise.shape[0], -1)
    mean = flat.mean(1).reshape(-1, *(1,) * (noise.ndim - 1))
    return noise - mean, flat.shape[1]
