"""Published PyTorch code: beside ours on the same weights, timed, or counted."""
