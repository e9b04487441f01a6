"""What XLA plans for accelerators that are not there: `--compile-for`, `--slice`.

XLA compiles ahead of time for a device of which it has only a description. The
temporaries, the kernels and the collectives of a program can therefore be read on any
machine. They are a plan and not a measurement: no program runs.
"""
