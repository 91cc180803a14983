"""The parent of a job's workers: it starts them, shows the output of the first, and ends them together.

It never imports jax.
"""
