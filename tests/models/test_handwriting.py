"""The digits that are shipped are the digits."""

import numpy as np

import dysonjax as dj


def test_digits_are_those_of_scikit_learn():
    images, labels = dj.models.digits()
    assert images.shape == (1797, 8, 8) and images.dtype == np.uint8 and images.max() == 16
    assert labels.shape == (1797,) and labels.dtype == np.int32
    assert int(images.sum()) == 561718  # of load_digits().images
    np.testing.assert_array_equal(np.bincount(labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])


def test_every_label_belongs_to_its_image():
    """The nearest other image shows the same digit in 98.8 % of the cases, and in 10 % with labels moved by one."""
    images, labels = dj.models.digits()
    x = images.reshape(1797, 64).astype(float)
    distance = (x**2).sum(1)[:, None] + (x**2).sum(1) - 2 * x @ x.T
    np.fill_diagonal(distance, np.inf)
    nearest = labels[distance.argmin(axis=1)]
    assert np.mean(nearest == labels) > 0.98
    assert np.mean(np.roll(nearest, 1) == labels) < 0.3


def test_the_source_and_licence_stand_in_the_file():
    from dysonjax.models.handwriting import FILE

    assert FILE.stat().st_size < 60_000
    with np.load(FILE) as kept:
        assert "CC BY 4.0" in str(kept["source"])
