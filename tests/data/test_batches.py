import numpy as np

from e4e_jax.data.batches import in_batches


def test_every_row_comes_back_from_batches_of_one_shape():
    shapes = []

    def function(x, y):
        shapes.append((x.shape, y.shape))
        return {"sum": x.sum(axis=1) + y, "twice": 2 * x}

    x, y = np.arange(21.0).reshape(7, 3), np.arange(7.0)
    found = in_batches(function, (x, y), 3)
    np.testing.assert_array_equal(found["sum"], x.sum(axis=1) + y)
    np.testing.assert_array_equal(found["twice"], 2 * x)
    assert shapes == [((3, 3), (3,))] * 3
