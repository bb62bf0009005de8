"""What `python -m e4e_jax COMMAND` runs: one module for each command."""
