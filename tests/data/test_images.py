from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxseg.data import images, source


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rows, columns = np.mgrid[:40, :60]
    channels = (rows * 6, columns * 4, rows * columns % 256)
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.png"),
        ("L", "a.png"),
        ("P", "a.png"),
        ("1", "a.png"),
        ("RGBA", "a.png"),
        ("LA", "a.png"),
        ("RGB", "a.jpg"),
        ("L", "a.jpg"),
        ("CMYK", "a.jpg"),
        ("RGB", "a.tif"),
        ("RGB", "a.webp"),
        ("RGB", "a.bmp"),
    ],
)
def test_reads_every_mode_as_pillow_does(tmp_path, picture, mode, name):
    path = str(tmp_path / name)
    picture.convert(mode).save(path)
    expected = np.asarray(Image.open(path).convert("RGB"), int)
    tolerance = 1 if mode == "CMYK" else 0
    assert abs(images.read(path, (40, 60)) - expected).max() <= tolerance


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    path = str(tmp_path / "a.png")
    grey = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60) * 27
    Image.fromarray(grey).save(path)
    image = images.read(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.repeat((grey >> 8)[..., None], 3, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, picture, orientation):
    path = str(tmp_path / "a.jpg")
    exif = Image.Exif()
    exif[0x112] = orientation
    picture.save(path, exif=exif)
    raw = np.asarray(Image.open(path).convert("RGB"))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    np.testing.assert_array_equal(images.read(path), upright)
    np.testing.assert_array_equal(images.read(path, upright.shape[:2]), upright)
    if upright.shape != raw.shape:  # the annotations were made on the file as it is stored
        np.testing.assert_array_equal(images.read(path, raw.shape[:2]), raw)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.97])
def test_truncated(tmp_path, picture, name, part):
    path = tmp_path / name
    picture.save(path, quality=95)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(source.ImageError, match=r"truncated|damaged"):
        images.read(str(path), (40, 60))


def test_truncated_jpeg_with_a_whole_thumbnail(tmp_path, picture):
    path = tmp_path / "a.jpg"
    picture.save(path)
    data = path.read_bytes()
    thumbnail = b"\xff\xe1\x00\x10Exif\0\0thumb\xff\xd9"
    path.write_bytes(
        data[:2]
        + thumbnail[:2]
        + len(thumbnail[2:]).to_bytes(2, "big")
        + thumbnail[4:]
        + data[2:-40]
    )
    with pytest.raises(source.ImageError, match="truncated"):
        images.read(str(path))


def test_missing_and_wrong_size(tmp_path, picture):
    path = str(tmp_path / "a.png")
    with pytest.raises(source.ImageError, match="missing"):
        images.read(path)
    picture.save(path)
    with pytest.raises(source.ImageError, match="another size") as error:
        images.read(path, (41, 60))
    assert path in str(error.value)
