"""Writes the files beside it; see README.md."""

from __future__ import annotations

import argparse
import collections
import pathlib
import sys
import types

import numpy as np
import torch
from safetensors import numpy as safetensors_numpy

from tests.weights import contents

FOLDER = pathlib.Path(__file__).parent


def views() -> dict[str, torch.Tensor]:
    arrays = contents.views()
    made = {
        k: torch.tensor(v.astype("f4")).bfloat16() if k == "bfloat16" else torch.tensor(v)
        for k, v in arrays.items()
    }
    base = made["base"]
    made.update(
        transposed=base.permute(2, 1, 0),
        slice=base[:, 1:, ::2],
        row=base[1],
        expanded=base[0, :, :1].expand(3, 5),
        channels_last=made["channels_last"].to(memory_format=torch.channels_last),
        parameter=torch.nn.Parameter(made["parameter"]),
    )
    made["scalar"].note = "a tensor with an attribute"
    return made


def history_buffer() -> type:
    """A class of MMEngine's name and form."""
    modules = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")
    sys.modules.update((name, types.ModuleType(name)) for name in modules)

    class HistoryBuffer:
        def __init__(self):
            self.max_length = 10
            self._log_history = np.array([1.0, 2.0])
            self._statistics_methods = {"min": HistoryBuffer.min}

        def min(self):
            return self._log_history.min()

    for thing, name in ((HistoryBuffer, "HistoryBuffer"), (HistoryBuffer.min, "HistoryBuffer.min")):
        thing.__module__, thing.__qualname__ = modules[-1], name
    sys.modules[modules[-1]].HistoryBuffer = HistoryBuffer
    return HistoryBuffer


def main() -> None:
    torch.save(views(), FOLDER / "views.pth")
    torch.save(views(), FOLDER / "views_protocol4.pth", pickle_protocol=4)
    torch.save(views(), FOLDER / "views_stream.pth", _use_new_zipfile_serialization=False)

    trained = collections.OrderedDict((k, torch.tensor(v)) for k, v in contents.TRAINED.items())
    weight = torch.nn.Parameter(trained["0.weight"].clone())
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    beside = dict(
        optimizer=optimizer.state_dict(),
        lr_scheduler=schedule.state_dict(),
        args=argparse.Namespace(lr=0.1, device=torch.device("cpu"), path=pathlib.Path("x")),
        epoch=3,
        best=np.float64(0.5),
    )
    torch.save(dict(model=trained, **beside), FOLDER / "training.pth")
    buffer = history_buffer()()
    meta = dict(
        epoch=12,
        seed=np.int64(3),
        cfg="model = dict()",
        dataset_meta=dict(classes=("person", "bicycle"), palette=[(220, 20, 60), (119, 11, 32)]),
        buffer=buffer,
    )
    hub = dict(log_scalars=collections.OrderedDict(loss=buffer), runtime_info=dict(iter=3))
    mmdet = dict(meta=meta, state_dict=trained, message_hub=hub, optimizer=optimizer.state_dict())
    torch.save(mmdet, FOLDER / "mmdet.pth")

    module = torch.nn.Linear(2, 1)
    torch.save(module, FOLDER / "module.pth")
    torch.jit.script(module).save(FOLDER / "script.pt")
    torch.save({"weight": torch.ones(2, 2).to_sparse()}, FOLDER / "sparse.pth")
    plain = {k: np.asarray(v, order="C") for k, v in contents.views().items()}
    safetensors_numpy.save_file(plain, FOLDER / "views.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
