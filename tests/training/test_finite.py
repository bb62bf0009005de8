import numpy as np
import pytest

from e4e_jax.training import finite


def test_non_finite_loss_names_loss_and_step():
    finite.check_finite({"l2": 0.5, "lpips": np.float32(3)}, 10)
    with pytest.raises(finite.NonFiniteLoss, match=r"l2 became nan at step 12$"):
        finite.check_finite({"lpips": 1.0, "l2": float("nan")}, 12)
    with pytest.raises(finite.NonFiniteLoss, match=r"inf at step 3$"):
        finite.check_finite({"l2": np.inf}, 3)
