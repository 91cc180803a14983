"""The parent of a job's workers: it starts them, shows what the first says, and ends them together. It never imports
jax."""
