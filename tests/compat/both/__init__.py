"""One script for two libraries: `python -m tests.compat.both filelock|interlock` prints what each public name does."""
