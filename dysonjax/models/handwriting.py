"""Small real data that need no download: handwritten digits."""

from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

FILE = Path(__file__).with_name("digits.npz")


def digits() -> tuple[UInt8[np.ndarray, "1797 8 8"], Int[np.ndarray, "1797"]]:
    """The 1797 handwritten digits of 8 × 8 pixels that scikit-learn calls `load_digits`, shipped with this package.

    They are the test set of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (1998), UCI
    Machine Learning Repository, https://doi.org/10.24432/C50P49, licence CC BY 4.0; pixels are stored as bytes here,
    and nothing else is changed. Some 180 images of each digit, writer after writer: shuffle before splitting.

    Returns:
        Images [1797, 8, 8] with pixels 0 … 16, and the digits 0 … 9 that they show [1797].

        images, labels = dj.models.digits()
        x = images.reshape(-1, 64) / np.float32(16)
    """
    with np.load(FILE) as kept:
        return kept["images"], kept["labels"].astype(np.int32)
