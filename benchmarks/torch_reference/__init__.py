"""The networks in ordinary PyTorch: channels first, per-sample weights and grouped convolutions."""
