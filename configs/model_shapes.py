"""Shapes of models that several configs share; no config itself."""

# Three layers of width 128: with a vocabulary of 8,192 tokens 1.7M parameters, an epoch in minutes on two CPU cores.
SMALL = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_layers": 3,
    "num_heads": 2,
    "num_kv_heads": 2,
    "unroll": True,
}
