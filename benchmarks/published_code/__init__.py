"""Networks of public repositories beside ours, for benchmarks.published."""
