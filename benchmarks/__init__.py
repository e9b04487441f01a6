"""Times jaxloss beside its peers: `python -m benchmarks --help`."""
