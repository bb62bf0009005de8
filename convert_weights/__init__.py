"""Published checkpoints -> bundles, and back: `python -m convert_weights SRC... DST`.

A format (`formats.py`) knows a published layout by its tensors and turns it into networks; its
table (`encoder.py`, `stylegan2.py`, ...) is a list of rows, one tensor of the checkpoint to one
variable of a network, which serves both directions.
"""
