"""The relational steps of `prepare`: one file per step, `run.py` for their order."""
