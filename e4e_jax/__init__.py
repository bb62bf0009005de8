"""encoder4editing in JAX: invert and edit images with StyleGAN2, and train encoders for it."""

__version__ = "0.1.0"


def load(name, *, dtype=None):
    """Opens a bundle as a model: `encode`, `map`, `synthesize`, as far as it can.

    Args:
      name: a folder that training or conversion wrote, or "toy" for the shipped inverter.
      dtype: compute type of convolutions, such as "bfloat16"; None for float32.

    Returns:
      A `api.Inverter` or `api.GeneratorModel`, or a `api.FeatureModel`, which is called
      with images.

    Raises:
      FileNotFoundError, ValueError: nothing usable is there; in one sentence.
    """
    # Here, so that `import e4e_jax` does not wait for JAX.
    from e4e_jax import api

    return api.load(name, dtype=dtype)


def evaluate(model, source=None, metrics=None, **options):
    """Measures a model, or images beside others.

        report = e4e_jax.evaluate("toy", "faces", metrics=["l2", "ms_ssim"])
        print(report, report["l2"])

    Args:
      model: what `load` gives, or its name; None to compare images with `reference`.
      source: of images, or a folder, file or pattern of them.
      metrics: each a NAME, NAME@NETWORK, or the import path of one's own; counts as in fid10k. By
        default l2, lpips, id, fid and swd.
      **options: `edits`, `reference`, `networks`, `cache` and others; see `metrics.prepare`.

    Returns:
      A `metrics.report.Report`: figures by name.

    Raises:
      FileNotFoundError, ValueError: something is not there or does not fit; in one sentence.
    """
    from e4e_jax.metrics.prepare import prepare

    return prepare(model, source, metrics, **options).measure()
