"""Raw interaction dumps -> the corpus on disk. No jax in here."""
