"""The corpus, the model and the job of tests/evaluate."""

from tests.evaluate.conftest import corpus, evaluated, model  # noqa: F401
