"""The typed config: one jax-free file per section, `root.py` for the whole. Built once, in `launch`."""
