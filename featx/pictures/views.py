"""Views: the picture itself and variations of it, so that a head sees more than one of every training picture.

A view depends on the picture's content, the view's number and the settings, and on nothing else: not on the order of
pictures, on their names, on threads or on the process.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featx.errors import SettingError, require_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

AUGMENTER = "affine-1"  # part of every file with views: to be raised whenever the pixels of a view could change
MAX_VIEWS = 1000  # those of a picture are in memory together
RANGES = {  # of each setting the upper bound, the range in words, and whether the bound itself is in it
    "zoom": (1, "at least 0 and below 1", False),
    "rotate": (180, "from 0 to 180 degrees", True),
    "shift": (1, "at least 0 and below 1", False),
    "brightness": (1, "at least 0 and below 1", False),
}
SUGGESTIONS = "`flip=True`, `zoom=0.2`, `rotate=10`, `shift=0.1` or `brightness=0.2`"


@dataclass(frozen=True)
class Views:
    """Number of views of each training picture, and how they vary. View 0 is the picture itself.

    Attributes:
        n: views of each training picture, itself included; 1 to 1000.
        flip: mirrored left to right, with probability 1/2.
        zoom: magnified by a factor from [1 - zoom, 1 + zoom], uniform, the same for both axes; 0 <= zoom < 1.
        rotate: turned by an angle from [-rotate, rotate], uniform; 0 to 180 degrees.
        shift: moved by up to this share of the side, each way and along each axis, uniform; 0 <= shift < 1.
        brightness: multiplied by a factor from [1 - brightness, 1 + brightness], uniform; 0 <= brightness < 1.
        random_state: seed of all that is drawn.

    Raises:
        SettingError: a value out of its range, several views that do not vary, or variation of a single view.

    Example:
        >>> import numpy as np
        >>> import featx
        >>> views = featx.Views(5, flip=True, zoom=0.2)
        >>> picture = np.zeros((30, 40, 3), np.uint8)
        >>> views.augment(picture, "any name", view=1).shape
        (30, 40, 3)
        >>> featx.Views(5)
        Traceback (most recent call last):
        featx.errors.SettingError: `views=5` would be 5 times the same picture; add `flip=True`, `zoom=0.2`, ...
    """

    n: int = 1
    flip: bool = False
    zoom: float = 0.0
    rotate: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    random_state: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", require_whole("views", self.n))
        object.__setattr__(self, "random_state", require_whole("random_state", self.random_state))
        if not isinstance(self.flip, (bool, np.bool_)):
            raise SettingError(f"`flip` is on or off, got {self.flip!r}; say True or False", "flip")
        object.__setattr__(self, "flip", bool(self.flip))
        for name in RANGES:  # 0 and 0.0 are to be one setting
            object.__setattr__(self, name, _within(name, getattr(self, name)))
        if not 1 <= self.n <= MAX_VIEWS:
            raise SettingError(f"`views` must be from 1 to {MAX_VIEWS}, got {self.n}", "views")
        varied = [name for name in ("flip", *RANGES) if getattr(self, name)]
        if self.n > 1 and not varied:
            raise SettingError(f"`views={self.n}` would be {self.n} times the same picture; add {SUGGESTIONS}", "views")
        if self.n == 1 and varied:
            raise SettingError(
                f"`{varied[0]}` varies views, but only the picture itself is asked for; add `views=5`", varied[0]
            )

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides views 1 and up besides picture and number, as JSON values; empty without such views."""
        if self.n == 1:
            return {}
        names = ("flip", *RANGES, "random_state")
        return {"augmenter": AUGMENTER, **{name: getattr(self, name) for name in names}}

    def augment(self, image: NDArray[np.uint8], content_id: str, view: int) -> NDArray[np.uint8]:
        """One view of a picture.

        Args:
            image: ``uint8 (h, w, 3)``, 0 to 255; it is not written to.
            content_id: content id of the picture, or any other text that tells it from others.
            view: number of the view; 0 gives ``image`` itself.

        Returns:
            ``uint8 (h, w, 3)``. What lies outside the picture is filled with its reflection.
        """
        if view == 0:
            return image
        # Six numbers whatever the settings, so that one setting does not change what another one draws
        mirror, *draws = _generator(content_id, view, self.random_state).random(6)
        zoom, angle, down, right, brightness = (2 * draw - 1 for draw in draws)  # from -1 to 1
        back = _backwards(self.flip and mirror < 0.5, 1 + self.zoom * zoom, math.radians(self.rotate * angle))
        height, width = image.shape[:2]
        middle = np.array([(height - 1) / 2, (width - 1) / 2])
        offset = middle - back @ (middle + np.array([down * height, right * width]) * self.shift)
        warped = _sample(image, back, offset) * (1 + self.brightness * brightness)
        pixels: NDArray[np.uint8] = np.rint(np.clip(warped, 0, 255)).astype(np.uint8)
        return pixels


def checked(views: Views | None) -> Views:
    """Views that were given, or those of the picture itself only.

    Raises:
        SettingError: it is something else, such as a number.
    """
    if not isinstance(views, Views | None):
        raise SettingError(
            f"`views` must be a featx.Views, such as Views(5, flip=True, zoom=0.2), got {views!r}", "views"
        )
    return views or Views()


def _generator(content_id: str, view: int, random_state: int) -> np.random.Generator:
    """Random numbers of one view; a hash, so that no two of them have anything in common."""
    name = f"{content_id} {view} {random_state}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "big"))


def _backwards(mirrored: bool, zoom: float, angle: float) -> NDArray[np.float64]:
    """Float64 ``(2, 2)`` that leads from (row, column) of a view to that of the picture, both from the middle.

    A view is the picture mirrored, magnified and turned counterclockwise.
    """
    cosine = math.cos(angle)
    sine = math.sin(angle)
    turned_back = np.array([[cosine, sine], [-sine, cosine]]) / zoom
    if mirrored:
        turned_back[1] *= -1
    return turned_back


def _sample(image: NDArray[np.uint8], matrix: NDArray[np.float64], offset: NDArray[np.float64]) -> NDArray[np.float32]:
    """Float32 ``(h, w, 3)`` of pixel (row, column) at ``matrix @ (row, column) + offset``, bilinear, reflected."""
    from scipy.ndimage import affine_transform  # takes a while to load, and few runs need it

    sampled = np.empty(image.shape, np.float32)
    for channel in range(image.shape[2]):
        pixels = image[..., channel]
        affine_transform(pixels, matrix, offset, output=sampled[..., channel], order=1, mode="reflect")
    return sampled


def _within(name: str, value: Any) -> float:
    top, words, inclusive = RANGES[name]
    try:
        number = float(value) + 0.0  # which makes -0.0 a 0.0
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < top and not (inclusive and number == top):
        raise SettingError(f"`{name}` must be {words}, got {value}", name)
    return number
