"""Files made to do harm, and files that lost or changed bytes on the way: a clear error, and nothing is run."""

from __future__ import annotations

import pathlib
import pickle
import pickletools
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxseg.weights.files import StateDict, load_file
from tests.weights import handmade
from tests.weights.handmade import Call, Global

FILES = pathlib.Path(__file__).parent / "files"
FORMATS = {
    "archive.pth": handmade.torch_zip,
    "stream.pth": handmade.torch_stream,
    "model.pkl": handmade.pickled,
}
# A name and what an attacker would call it with; MARKER is the file whose creation would show that it ran.
TOUCH, OPEN = "touch MARKER", "open('MARKER', 'w')"
ATTACKS = [
    ("os", "system", (TOUCH,)),
    ("posix", "system", (TOUCH,)),
    ("nt", "system", (TOUCH,)),
    ("subprocess", "Popen", (["touch", "MARKER"],)),
    ("builtins", "eval", (OPEN,)),
    ("__builtin__", "eval", (OPEN,)),
    ("builtins", "exec", (OPEN,)),
    ("builtins", "__import__", ("os",)),
    ("builtins", "open", ("MARKER", "w")),
    ("builtins", "getattr", (Global("os", "system"), "__call__")),
    ("builtins", "getattr", (Global("torch", "FloatStorage"), "from_file")),
    ("builtins", "getattr", ({}, "__class__")),
    ("builtins", "setattr", ({}, "a", 1)),
    ("builtins", "map", (Global("builtins", "eval"), [OPEN])),
    ("runpy", "_run_code", (OPEN, {})),
    ("importlib", "import_module", ("os",)),
    ("pickle", "loads", (b"",)),
    ("_pickle", "loads", (b"",)),
    ("operator", "attrgetter", ("system",)),
    ("functools", "partial", (Global("os", "system"), TOUCH)),
    ("copyreg", "_reconstructor", (Global("os", "system"), None, None)),
    ("codecs", "open", ("MARKER", "w")),
    ("_codecs", "decode", (b"", "rot13")),
    ("collections", "namedtuple", ("A", "a")),
    ("torch", "load", ("x",)),
    ("torch.hub", "load", ("x", "y")),
    ("torch.serialization", "load", ("x",)),
    ("torch.serialization", "_get_layout", ("x",)),
    ("torch.storage", "_load_from_bytes", (b"",)),
    ("torch._utils", "_rebuild_wrapper_subclass", ()),
    ("torch.nn.modules.linear", "Linear", (1, 1)),
    ("numpy", "load", ("x",)),
    ("numpy", "memmap", ("MARKER", "f4", "w+", 0, 1)),
    ("numpy.core.multiarray", "fromfile", ("x",)),
    ("numpy._core.multiarray", "fromstring", ("x",)),
    ("numpy.core.multiarray", "array", ([1],)),
    ("numpy.testing._private.utils", "runstring", (OPEN, {})),
]


def _marked(value, marker: pathlib.Path):
    """`value` with the marker's path in it."""
    if isinstance(value, str):
        return value.replace("MARKER", str(marker))
    if isinstance(value, list | tuple):
        return type(value)(_marked(v, marker) for v in value)
    return value


def _refused(path: pathlib.Path, content: bytes, name: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"'{re.escape(name)}', which is no array") as error:
        load_file(path)
    assert str(error.value).startswith(f"{path} cannot be read: ")


class _Evil:
    def __init__(self, marker: pathlib.Path):
        self.marker = marker

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_reduce_to_os_system_is_not_run(tmp_path, protocol):
    marker = tmp_path / "marker"
    content = pickle.dumps({"model": {"w": np.zeros(2)}, "x": _Evil(marker)}, protocol)
    _refused(tmp_path / "model.pkl", content, "posix.system")
    _refused(tmp_path / "model.pth", handmade.torch_zip(content), "posix.system")
    _refused(tmp_path / "stream.pth", handmade.torch_stream(content), "posix.system")
    assert not marker.exists()
    pickle.loads(content)  # the attack itself works
    assert marker.exists()


@pytest.mark.parametrize("file", FORMATS)
def test_no_other_name_is_admitted(tmp_path, file):
    path, marker = tmp_path / file, tmp_path / "marker"
    good = handmade.array(np.ones(3, np.float32))
    for module, name, arguments in ATTACKS:
        # What it is called with may be refused first.
        names = {f"{module}.{name}", "torch.FloatStorage", "os.system", "builtins.eval"}
        for dotted in (False, True):
            function = Global(module, name, dotted)
            call = Call(function, _marked(arguments, marker), new=dotted)
            for value in (
                call,
                {"model": {"weight": good}, "optimizer": [{"state": (1, call)}]},
                {"state_dict": {"weight": call}},
                {"weight": Call(good.function, good.arguments, (1, call))},  # for __setstate__
                {"weight": good, "x": Call(Global("collections", "OrderedDict"), (), {"a": call})},
                {call: good},
            ):
                path.write_bytes(FORMATS[file](value))
                with pytest.raises(ValueError, match="which is no array") as error:
                    load_file(path)
                assert any(f"'{n}'" in str(error.value) for n in names), names
    assert not marker.exists()


def test_every_pickle_of_a_stream_is_guarded(tmp_path):
    evil = Call(Global("posix", "system"), (f"touch {tmp_path / 'marker'}",))
    good = {"a": handmade.tensor()}
    info = (handmade.MAGIC, 1001, {})
    for place in range(3):
        head = (*info[:place], evil, *info[place + 1 :])
        content = handmade.torch_stream(good, head)
        _refused(tmp_path / "stream.pth", content, "posix.system")
    _refused(tmp_path / "stream.pth", handmade.torch_stream(good, keys=evil), "posix.system")
    assert not (tmp_path / "marker").exists()


def test_references_to_storages_name_no_others(tmp_path):
    evil = handmade.tensor(of=handmade.storage(kind="system", module="posix"))
    for make in (handmade.torch_zip, handmade.torch_stream):
        _refused(tmp_path / "w.pth", make({"a": evil}), "posix.system")


@pytest.mark.parametrize("spelled", [True, False])
def test_bystanders_are_not_made(tmp_path, spelled):
    """Known records beside the weights are passed over, whatever is said of their inside."""
    record = Global("argparse", "Namespace", spelled)
    method = Global("argparse", "Namespace.__init__.__globals__", True)
    beside = [
        Call(record, (1, 2), {"__class__": 1}),
        Call(record, (), {"__dict__": {}}, new=True),
        Call(Global("builtins", "getattr"), (record, "__init__")),
        Call(method, ("x",)),
        method,
    ]
    path = tmp_path / "w.pth"
    path.write_bytes(handmade.torch_zip({"model": {"a": handmade.tensor()}, "args": beside}))
    got = load_file(path)
    assert list(got) == ["a"] and got.dropped == ("args",)


def test_a_bystander_is_no_array(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(handmade.torch_zip({"a": Call(Global("argparse", "Namespace"))}))
    with pytest.raises(ValueError, match="holds no arrays"):
        load_file(path)
    _refused(
        tmp_path / "w.pkl",
        handmade.pickled(Call(Global("argparse", "Namespace"))),
        "argparse.Namespace",
    )


SAFETENSORS = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
SMALL = {
    "archive.pth": handmade.torch_zip({"a": handmade.tensor(), "n": 1}),
    "stream.pth": handmade.torch_stream({"a": handmade.tensor(), "n": 1}),
    "model.pkl": pickle.dumps({"model": {"a": np.ones(2, np.float32)}, "__author__": "x"}, 2),
    "protocol4.pkl": pickle.dumps({"model": {"a": np.ones(2, np.float32)}}, 4),
    "w.safetensors": b"\x40" + b"\0" * 7 + SAFETENSORS.ljust(0x40) + b"\0" * 8,
}


@pytest.mark.parametrize("name", SMALL)
def test_a_file_cut_off_anywhere_is_refused(tmp_path, name):
    path, content = tmp_path / name, SMALL[name]
    path.write_bytes(content)
    assert load_file(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"empty|truncated|no known format"):
            load_file(path)


def _load(path: pathlib.Path, content: bytes) -> None:
    """Either of the two outcomes that there are."""
    path.write_bytes(content)
    try:
        got = load_file(path)
    except ValueError as error:
        assert str(error).startswith(f"{path} cannot be read: ")
        str(error).encode()  # it can be printed
    else:
        assert isinstance(got, StateDict) and all(isinstance(v, np.ndarray) for v in got.values())


CORPUS = {
    **SMALL,
    **{p.name: p.read_bytes() for p in sorted(FILES.iterdir()) if p.suffix in (".pth", ".pt")},
}
RANDOM = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("name", CORPUS)
@RANDOM
@given(data=st.data())
def test_changed_bytes_give_arrays_or_a_clear_error(tmp_path, name, data):
    content = bytearray(CORPUS[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    _load(tmp_path / name, bytes(content))


_OPCODES = [o.code.encode("latin1") for o in pickletools.opcodes]


@RANDOM
@given(st.lists(st.one_of(st.sampled_from(_OPCODES), st.binary(max_size=4)), max_size=60))
def test_random_pickles_give_a_clear_error(tmp_path, parts):
    content = b"\x80\x04" + b"".join(parts) + b"."
    _load(tmp_path / "w.pkl", content)
    _load(tmp_path / "w.pth", handmade.torch_zip(content))
