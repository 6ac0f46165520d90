"""Reading image files as RGB, as the annotation file describes them."""

from __future__ import annotations

import struct

import cv2
import numpy as np
from jaxtyping import UInt8

from jaxseg.data import source

# What each EXIF orientation asks for: (transpose first, flip vertically, flip horizontally).
_ORIENTATIONS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def read(path: str, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Reads any 8- or 16-bit grey, palette, RGB(A) or CMYK image as 8-bit RGB.

    Alpha is dropped, 16 bits keep their upper 8. The EXIF rotation of a JPEG is applied if the rotated image
    has the size that is expected; without `size` it always is.

    Args:
      path: the file.
      size: the expected (height, width).

    Raises:
      ImageError: the file is missing, truncated, no image, or of another size.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise source.ImageError("image file is missing", path) from None
    except OSError as error:
        raise source.ImageError(f"image file is not readable ({error.strerror})", path) from None
    return decode(data, path, size)


def decode(
    data: UInt8[np.ndarray, "N"], path: str, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """As `read`, of a file's content; `path` is what errors call it."""
    orientation, complete = _inspect(data)
    if not complete:
        raise source.ImageError("image file is truncated", path)
    image = _decode(data)
    if image is None:
        raise source.ImageError("image file is damaged or of an unknown format", path)
    rotated = apply_orientation(image, orientation)
    if size is None or rotated.shape[:2] == tuple(size):
        return rotated
    if image.shape[:2] == tuple(size):
        return image
    raise source.ImageError("image is of another size than the annotation file says", path)


def apply_orientation(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors an image (H,W,C) as EXIF `orientation` (1-8) asks for."""
    transpose, vertical, horizontal = _ORIENTATIONS.get(orientation, _ORIENTATIONS[1])
    if transpose:
        image = cv2.transpose(image)
    if vertical or horizontal:
        image = cv2.flip(image, -1 if vertical and horizontal else 0 if vertical else 1)
    return image


def _decode(data: np.ndarray) -> np.ndarray | None:
    if not data.size:
        return None
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _inspect(data: np.ndarray) -> tuple[int, bool]:
    """(EXIF orientation, whether the end of the file is there): OpenCV returns half-grey pictures silently."""
    head = data[:8].tobytes()
    if head[:2] == b"\xff\xd8":
        return _inspect_jpeg(data)
    if head == b"\x89PNG\r\n\x1a\n":
        return 1, b"IEND" in data[-4096:].tobytes()
    return 1, True


def _inspect_jpeg(data: np.ndarray) -> tuple[int, bool]:
    """Walks the segments up to the start of scan; an embedded thumbnail's end marker lies before that."""
    orientation, position = 1, 2
    while position + 4 <= data.size and data[position] == 0xFF:
        marker = int(data[position + 1])
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = int(data[position + 2]) << 8 | int(data[position + 3])
        if marker == 0xE1:
            found = _exif_orientation(data[position + 4 : position + 2 + length].tobytes())
            orientation = found or orientation
        if marker == 0xDA:
            return orientation, _ends(data, position)
        position += 2 + length
    return orientation, False


def _ends(data: np.ndarray, scan: int) -> bool:
    """Whether the end marker follows; most files end with it, some carry a tail of other data."""
    return data[-2:].tobytes() == b"\xff\xd9" or b"\xff\xd9" in data[scan:].tobytes()


def _exif_orientation(segment: bytes) -> int | None:
    if segment[:6] != b"Exif\0\0":
        return None
    tiff = segment[6:]
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == 0x0112 and kind == 3:
                return value if value in _ORIENTATIONS else None
    except struct.error:  # a damaged EXIF block is no reason to lose the picture
        return None
    return None
