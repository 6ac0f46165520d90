"""Files of weights: those that the libraries write are read to the bit, and nothing else is."""

from __future__ import annotations

import json
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxseg.weights.files import StateDict, load_file, save_safetensors
from tests.weights import contents, handmade
from tests.weights.handmade import Call, Global

FILES = pathlib.Path(__file__).parent / "files"
VIEWS = {name: contents.loaded(array) for name, array in contents.views().items()}
SIX = np.arange(6, dtype=np.float32)


@pytest.fixture
def load(tmp_path):
    """Loads a file of this content."""

    def load(content: bytes, name: str = "weights.pth") -> StateDict:
        path = tmp_path / name
        path.write_bytes(content)
        return load_file(path)

    return load


# What the libraries write.


@pytest.mark.parametrize("name", ["views.pth", "views_protocol4.pth", "views_stream.pth"])
def test_torch_files_hold_the_tensors_that_were_saved(name):
    got = load_file(FILES / name)
    contents.assert_same(got, VIEWS)
    assert got.metadata == {} and got.dropped == ()


def test_safetensors_files_hold_the_arrays_that_were_saved():
    got = load_file(FILES / "views.safetensors")
    contents.assert_same(dict(sorted(got.items())), dict(sorted(VIEWS.items())))
    assert got.metadata == {"format": "pt"}


def test_a_training_checkpoint_gives_the_model_alone():
    got = load_file(FILES / "training.pth")
    contents.assert_same(got, contents.TRAINED)
    assert got.metadata == {"epoch": 3, "best": 0.5}
    assert got.dropped == ("optimizer", "lr_scheduler", "args")


def test_an_mmdetection_checkpoint_gives_the_model_and_its_classes():
    got = load_file(FILES / "mmdet.pth")
    contents.assert_same(got, contents.TRAINED)
    classes = dict(classes=("person", "bicycle"), palette=[(220, 20, 60), (119, 11, 32)])
    meta = dict(epoch=12, seed=3, cfg="model = dict()", dataset_meta=classes)
    assert got.metadata == {"meta": meta}
    assert got.dropped == ("message_hub", "optimizer")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_detectron2_pickles_by_every_protocol(load, protocol):
    model = {
        "weight": SIX.reshape(2, 3),
        "fortran": np.asfortranarray(SIX.reshape(2, 3)),
        "big_endian": SIX.astype(">f8"),
        "half": SIX.astype(np.float16)[::2],
        "empty": np.zeros((0, 3), np.float32),
        "steps": np.array(7),
    }
    file = {"model": model, "__author__": "somebody", "matching_heuristics": True}
    got = load(pickle.dumps(file, protocol), "model.pkl")
    expected = {k: contents.loaded(v).astype(v.dtype.newbyteorder("=")) for k, v in model.items()}
    contents.assert_same(got, {k: contents.loaded(v) for k, v in expected.items()})
    assert got.metadata == {"__author__": "somebody", "matching_heuristics": True}


@pytest.mark.parametrize("wrapped", [True, False])
def test_caffe2_pickles_of_python_2(load, wrapped):
    every_byte = np.arange(256, dtype=np.uint8).view(np.float32)
    every_byte = np.where(np.isnan(every_byte), 1, every_byte).astype(np.float32)
    # Python 2's str, which is how it kept the numbers: 8-bit text, here by the opcode BINSTRING.
    text = b"T" + struct.pack("<I", every_byte.nbytes) + every_byte.tobytes()
    code = handmade.code(handmade.array(every_byte))
    content = handmade.code(every_byte.tobytes())
    assert code.count(content) == 1
    blobs = b"}(U\x07conv1_w" + code.replace(content, text) + b"U\x03cfgU\x05a: 1\nu"
    file = b"}(U\x05blobs" + blobs + b"u" if wrapped else blobs
    got = load(b"\x80\x02" + file + b".", "R-50.pkl")
    contents.assert_same(got, {"conv1_w": every_byte})
    assert got.metadata == {"cfg": "a: 1\n"}


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "blobs"])
def test_wrappers_are_taken_off(load, wrapper):
    file = {"model_ema": {"b": handmade.tensor()}, "n": 1, wrapper: {"a": handmade.tensor()}}
    got = load(handmade.torch_zip({"model": file} if wrapper != "model" else file))
    contents.assert_same(got, {"a": SIX.reshape(2, 3)})
    assert (got.metadata, got.dropped) == ({"n": 1}, ("model_ema",))


@pytest.mark.parametrize("file", ["zip", "stream"])
def test_files_made_by_hand_are_those_of_torch(load, file):
    """The other tests rest on it."""
    of = handmade.storage() if file == "zip" else handmade.stream_storage()
    value = {"a": handmade.tensor(of=of), "b": handmade.tensor((2,), (2,), 3, of)}
    got = load(getattr(handmade, f"torch_{file}")(value))
    contents.assert_same(got, {"a": SIX.reshape(2, 3), "b": SIX[3::2]})


def test_a_big_endian_archive(load):
    content = handmade.torch_zip(
        {"a": handmade.tensor()}, {"0": SIX.astype(">f4").tobytes()}, byteorder=b"big"
    )
    contents.assert_same(load(content), {"a": SIX.reshape(2, 3)})


def test_a_view_of_a_storage_in_the_oldest_files(load):
    view = handmade.stream_storage(("1", 2, 3))
    got = load(handmade.torch_stream({"a": handmade.tensor((3,), (1,), of=view)}))
    contents.assert_same(got, {"a": SIX[2:5]})


# Safetensors.


@pytest.mark.parametrize("metadata", [None, {"format": "pt", "ü": '"'}])
def test_safetensors_round_trip(tmp_path, metadata):
    arrays = {**contents.views(), "": np.zeros(2, np.uint64), "ü.😀": np.ones((1, 2), ">i4")}
    save_safetensors(tmp_path / "w.safetensors", arrays, metadata)
    got = load_file(tmp_path / "w.safetensors")
    arrays["ü.😀"] = arrays["ü.😀"].astype("i4")
    expected = {k: contents.loaded(v) for k, v in arrays.items()}
    contents.assert_same(dict(sorted(got.items())), dict(sorted(expected.items())))
    assert got.metadata == (metadata or {})
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_safetensors_writes_what_the_package_writes(tmp_path):
    save_safetensors(tmp_path / "w.safetensors", contents.views(), {"format": "pt"})
    ours, theirs = tmp_path / "w.safetensors", FILES / "views.safetensors"
    assert _header(ours) == _header(theirs)
    assert ours.stat().st_size % 8 == theirs.stat().st_size % 8


def _header(path: pathlib.Path) -> dict:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    # Among arrays of one width the order is free.
    return {k: (v["dtype"], v["shape"]) if "shape" in v else v for k, v in header.items()}


@pytest.mark.parametrize(
    "arrays, metadata, words",
    [
        ({"a": np.array(["text"])}, None, "'a' is of dtype <U4"),
        ({"a": np.zeros(1, complex)}, None, "complex128"),
        ({"__metadata__": SIX}, None, "'__metadata__' cannot be the name"),
        ({"a": SIX}, {"epoch": 3}, "text by name"),
    ],
)
def test_safetensors_writes_nothing_else(tmp_path, arrays, metadata, words):
    with pytest.raises(ValueError, match=words):
        save_safetensors(tmp_path / "w.safetensors", arrays, metadata)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_safetensors(path, {"a": SIX})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError, match=r"Could not write .*: No space"):
        save_safetensors(path, {"a": SIX, "b": SIX})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert list(load_file(path)) == ["a"]


def _safetensors(size: int = 24, start: bytes | None = None, **entries) -> bytes:
    header = start or json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + SIX.tobytes()[:size]


def _entry(begin=0, end=24, shape=(6,), dtype="F32"):
    return dict(dtype=dtype, shape=list(shape), data_offsets=[begin, end])


@pytest.mark.parametrize(
    "content, words",
    [
        (
            _safetensors(a=_entry(0, 20)),
            "4 bytes follow the last array",
        ),
        (_safetensors(a=_entry(0, 24, (5,))), "24 bytes where float32 of shape"),
        (_safetensors(a=_entry(0, 12, (3,)), b=_entry(8, 24, (4,))), "'b' overlaps"),
        (_safetensors(a=_entry(0, 8, (2,)), b=_entry(12, 24, (3,))), "leaves a gap"),
        (_safetensors(a=_entry(0, 28, (7,))), "truncated: 24 of 28 bytes"),
        (_safetensors(a=_entry(24, 0)), "overlaps another array or leaves a gap"),
        (_safetensors(a=_entry(0.0, 24)), r"'a' lies at \(float, 24\)"),
        (_safetensors(a=_entry(0, 24, (-6,))), r"\(-6\) is not the shape"),
        (_safetensors(a=_entry(0, 24, (True, 6))), "is not the shape"),
        (_safetensors(0, a=_entry(0, 0, (0, 2**62))), "is not the shape"),
        (_safetensors(0, a=_entry(0, 0, (0,) * 99)), "is not the shape"),
        (_safetensors(a=_entry(dtype="F8_E4M3")), "'F8_E4M3'; those supported are F64, F32"),
        (_safetensors(a=_entry(dtype=["F32"])), "those supported"),
        (_safetensors(a={"dtype": "F32"}), "'a' lacks its dtype, shape or place"),
        (_safetensors(start=b'{"a":{},"a":{}}'), "occurs twice"),
        (_safetensors(start=b"[" * 100_000), "no JSON"),
        (_safetensors(start=b"[]"), "no dictionary"),
        (_safetensors(start=b"{}\xff"), "no JSON"),
        (_safetensors(0, start=b"{}"), "no arrays"),
        (_safetensors(0, __metadata__=[]), "metadata is no dictionary"),
        (struct.pack("<Q", 2**63) + b"{}", "header of 9223372036854775808 bytes is not whole"),
    ],
)
def test_damaged_safetensors_are_refused(load, content, words):
    with pytest.raises(ValueError, match=words):
        load(content, "w.safetensors")


# Damaged files of torch, and of pickles.


@pytest.mark.parametrize(
    "value, words",
    [
        (handmade.tensor((7,), (1,)), r"shape \(7,\) reaches beyond its storage of 24 bytes"),
        (handmade.tensor((2, 3), (3, 1), 1), "reaches beyond"),
        (handmade.tensor((2, 3), (3, -1), 2), "strides"),
        (handmade.tensor((2, 3), (3, 1), -1), "strides"),
        (handmade.tensor((2, 3), (3,)), "strides"),
        (handmade.tensor((2, 3), (2**70, 1)), "reaches beyond"),
        (handmade.tensor((2.0,), (1,)), "not the shape"),
        (handmade.tensor((2**40, 2**40), (0, 0)), "not the shape"),
        (handmade.tensor((2**20, 2**20), (0, 0)), "far larger than the file"),
        (handmade.tensor(of=handmade.storage(size=7)), "storage '0' has 24 of 28 bytes"),
        (handmade.tensor(of=handmade.storage(size=2**70)), "of 4722366482869645213696 bytes"),
        (handmade.tensor(of=handmade.storage(size=-1)), "a storage of -1 elements"),
        (handmade.tensor(of=handmade.storage(key="../data.pkl")), "'archive/data/../data.pkl' is"),
        (handmade.tensor(of=handmade.storage(key="1")), "'archive/data/1' is missing"),
        (handmade.tensor(of=3), "a tensor without a storage"),
        (handmade.tensor(of=handmade.Reference("a")), "a reference that is not to a storage"),
    ],
)
def test_impossible_tensors_are_refused(load, value, words):
    with pytest.raises(ValueError, match=words):
        load(handmade.torch_zip({"a": value}))


def test_a_small_file_cannot_fill_the_memory(load):
    views = {str(i): handmade.tensor((2**20,), (0,)) for i in range(40)}
    with pytest.raises(ValueError, match="far larger than the file"):
        load(handmade.torch_zip(views))
    # Every list holds the one before ten times.
    nested = b"(lp0\n0" + b"".join(
        b"(" + b"g%d\n" % i * 10 + b"lp%d\n0" % (i + 1) for i in range(60)
    )
    file = b"\x80\x02}(X\x04\0\0\0meta}X\x01\0\0\0x" + nested + b"g60\ns"
    file += handmade.code("a") + handmade.code(handmade.tensor()) + b"u."
    contents.assert_same(load(handmade.torch_zip(file)), {"a": SIX.reshape(2, 3)})


@pytest.mark.parametrize("value", [b"(" * 10**5 + b"t" * 10**5, b"]" * 10**4 + b"a" * 9999])
def test_deep_nesting_is_no_danger(load, value):
    """Python's hash of such a tuple would end the process."""
    file = b"\x80\x02}(" + value + b"K\x01X\x01\0\0\0b" + value + handmade.code("a")
    file += handmade.code(handmade.tensor()) + b"u."
    contents.assert_same(load(handmade.torch_zip(file)), {"a": SIX.reshape(2, 3)})


@pytest.mark.parametrize(
    "content, words",
    [
        (handmade.torch_stream({"a": handmade.tensor()}, head=(handmade.MAGIC, 1)), "version 1"),
        (handmade.torch_stream({"a": handmade.tensor()}, keys=()), "list of storages"),
        (handmade.torch_stream({"a": handmade.tensor()}, keys={}), "list of storages"),
        (handmade.torch_stream({"a": handmade.tensor()}, keys=("1", "0")), "nothing says"),
        (handmade.torch_zip({"a": handmade.tensor()}, byteorder=b"middle"), "byte order"),
        (handmade.torch_zip({"a": handmade.tensor()}, **{"constants.pkl": b""}), "TorchScript"),
        (handmade.torch_zip(handmade.tensor()), "a single Tensor, not arrays by name"),
        (handmade.torch_zip({"a": 1, "b": {}}), "holds no arrays: what it holds is 'a', 'b'"),
        (handmade.torch_zip(b"\x80\x02\x82\x01."), "opcode EXT1"),
        (handmade.torch_zip(b"\x80\x02(i__main__\nA\n."), "opcode INST"),
        (handmade.torch_zip(b"\x80\x05\x97."), "opcode NEXT_BUFFER"),
        (handmade.torch_zip(b"\x80\x02j\xff\xff\xff\xff."), "makes no sense at byte 2"),
        (handmade.torch_zip(b"\x80\x02X\xff\xff\xff\xffa."), "makes no sense"),
        (handmade.torch_zip(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fa."), "makes no sense"),
        (handmade.torch_zip(b"\x80\x02Nr\xff\xff\xff\x7f."), "a single NoneType"),
        (handmade.pickled({"a": handmade.tensor()}), "'torch._utils._rebuild_tensor_v2'"),
        (handmade.pickled({"a": handmade.Reference(("storage",))}), "refers to data outside"),
    ],
)
def test_damaged_torch_files_are_refused(load, content, words):
    with pytest.raises(ValueError, match=words):
        load(content)


def test_a_compressed_archive_is_refused(load, tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**6)
    with pytest.raises(ValueError, match="is compressed in its archive"):
        load_file(path)


def _changed(index: int, value) -> Call:
    """An array of which one entry of the state is `value`."""
    whole = handmade.array(SIX)
    state = [*whole.state[:index], value, *whole.state[index + 1 :]]
    return Call(whole.function, whole.arguments, tuple(state))


_DTYPE = Global("numpy", "dtype")


@pytest.mark.parametrize(
    "value, words",
    [
        (_changed(1, (5,)), "24 bytes where float32"),
        (_changed(1, (-6,)), "not the shape"),
        (_changed(1, 6), "not the shape"),
        (
            _changed(2, Call(_DTYPE, ("O8", 0, 1), (3, "|", *[None] * 3))),
            "dtype 'O8', which is not",
        ),
        (_changed(2, Call(_DTYPE, ("V8", 0, 1), (3, "|", None, ("x",), {}))), "dtype 'V8'"),
        (_changed(2, Call(_DTYPE, ("f4", 0, 1), (3, "<", (1, 2), None, None))), "dtype 'f4'"),
        (_changed(2, "f4"), "without a dtype"),
        (_changed(4, [1.0] * 6), "an array of Python objects"),
        (_changed(4, "ā"), "latin-1"),
        (Call(handmade.array(SIX).function, handmade.array(SIX).arguments), "without content"),
        (Call(handmade.array(SIX).function, (_DTYPE, (0,), b"b")), "another class"),
    ],
)
def test_impossible_numpy_arrays_are_refused(load, value, words):
    with pytest.raises(ValueError, match=words):
        load(handmade.pickled({"a": value}), "model.pkl")


# Files of other kinds.


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("w.pth", b"", "it is empty"),
        ("w.pth", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("w.pth", b"<!DOCTYPE html>", "web page"),
        ("w.h5", b"\x89HDF\r\n", "HDF5"),
        ("w.npy", b"\x93NUMPY\x01", "single NumPy array"),
        ("w.bin", b"\x1f\x8b\x08", "gzip"),
        ("w.safetensors.index.json", b"{}", "only the index of weights in several files"),
        ("index", b'{"weight_map": {}}', "only the index of weights in several files"),
        ("w.onnx", b"\x08\x07\x12\x07pytorch", r"no known format: it begins with b'\\x08\\x07"),
        ("w.pkl", b"no pickle", "truncated or damaged"),
        ("w.safetensors", b"PK\x03\x04", "truncated"),
    ],
)
def test_other_files_are_refused_with_a_hint(load, tmp_path, name, content, words):
    with pytest.raises(ValueError, match=words) as error:
        load(content, name)
    assert str(error.value).startswith(f"{tmp_path / name} cannot be read: it ")


def test_refused_files_of_torch():
    for name, words in {
        "script.pt": "TorchScript program",
        "module.pth": "'torch.nn.modules.linear.Linear', which is no array",
        "sparse.pth": "'torch._utils._rebuild_sparse_tensor'",
    }.items():
        with pytest.raises(ValueError, match=words):
            load_file(FILES / name)


def test_archives_of_others(tmp_path):
    np.savez(tmp_path / "w.npz", a=SIX)
    with pytest.raises(ValueError, match="a zip archive, and not one of torch"):
        load_file(tmp_path / "w.npz")


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder\. Give the file"):
        load_file(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_file(tmp_path / "missing.pth")


def test_bfloat16_is_that_of_ml_dtypes(tmp_path):
    values = SIX.astype(ml_dtypes.bfloat16)
    save_safetensors(tmp_path / "w.safetensors", {"a": values})
    assert b'"BF16"' in (tmp_path / "w.safetensors").read_bytes()
    contents.assert_same(load_file(tmp_path / "w.safetensors"), {"a": values.astype(np.float32)})
