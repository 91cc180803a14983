"""CPRec in JAX: continual pre-training of language models on all-domain user behaviour."""

__version__ = "0.1.0"
