"""N-grams, TF-IDF and BM25 of titles, against scikit-learn and plain Python."""

import math

import numpy as np
import pytest

from cprec_jax.config.build import build
from cprec_jax.config.evaluate import EvaluateSpec, parse_features
from cprec_jax.errors import UserError
from cprec_jax.text.title_features import K1, B, counts, n_grams, similarity, tf_idf

TITLES = [
    "Organic Green Tea, 100 Bags",
    "Green tea (organic) 50 bags",
    "Super Mario 64",
    "super mario kart 8 Deluxe",
    "Crème brûlée Torch",
    "絵本 ねこ",
    "ねこ の 絵本",
    "!!!",
    "Green Tea Green Tea",
    "X",
]
SKLEARN = {
    "words 1": {"analyzer": "word", "ngram_range": (1, 1)},
    "words 1-2": {"analyzer": "word", "ngram_range": (1, 2)},
    "characters 3-5": {"analyzer": "char_wb", "ngram_range": (3, 5)},
    "characters 1-2": {"analyzer": "char_wb", "ngram_range": (1, 2)},
}


@pytest.mark.parametrize("features", SKLEARN)
def test_tf_idf_is_that_of_scikit_learn(features: str) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    pattern = {"token_pattern": r"(?u)\w+"} if features.startswith("words") else {}
    vectorizer = text.TfidfVectorizer(**SKLEARN[features], **pattern)
    expected = vectorizer.fit_transform(TITLES)
    matrix = tf_idf(counts(TITLES, features))
    assert matrix.shape == expected.shape
    np.testing.assert_allclose(matrix.toarray(), expected.toarray(), atol=1e-12)
    alike = similarity(TITLES, features, "tfidf")
    cosine = (expected @ expected.T).toarray()
    scores = (alike.query_NF @ alike.document_NF.T).toarray()
    # without the n-grams of one title alone, what a title shares with itself is less
    off = ~np.eye(len(TITLES), dtype=bool)
    np.testing.assert_allclose(scores[off], cosine[off], atol=1e-12)
    np.testing.assert_allclose(alike.own_N, np.diag(scores), atol=1e-12)


@pytest.mark.parametrize("features", ["words 1", "characters 2-3"])
def test_bm25_is_its_formula(features: str) -> None:
    grams = [list(n_grams(title, *parse_features(features))) for title in TITLES]
    n, mean = len(TITLES), np.mean([len(title) for title in grams])

    def score(query: list[str], document: list[str]) -> float:
        total = 0.0
        for gram in query:
            held, tf = sum(gram in other for other in grams), document.count(gram)
            total += (
                math.log(1 + (n - held + 0.5) / (held + 0.5))
                * tf
                * (K1 + 1)
                / (tf + K1 * (1 - B + B * len(document) / mean))
            )
        return total

    alike = similarity(TITLES, features, "bm25")
    scores = (alike.query_NF @ alike.document_NF.T).toarray()
    for i, query in enumerate(grams):
        for j, document in enumerate(grams):
            if i != j:
                assert scores[i, j] == pytest.approx(score(query, document) / (score(query, query) or 1), abs=1e-12)


def test_the_order_of_titles_changes_nothing_not_even_the_last_digit() -> None:
    order = np.random.default_rng(0).permutation(len(TITLES))
    for weighting in ("tfidf", "bm25"):
        one = similarity(TITLES, "characters 3-5", weighting)
        other = similarity([TITLES[i] for i in order], "characters 3-5", weighting)
        a, b = ((s.query_NF @ s.document_NF.T).toarray() for s in (one, other))
        assert np.array_equal(a[np.ix_(order, order)], b)


def test_titles_alike_in_words_are_alike_and_those_without_any_are_like_nothing() -> None:
    alike = similarity(["a b", "B  a!", "a c", "?"], "words 1", "tfidf")
    scores = (alike.query_NF @ alike.document_NF.T).toarray()
    assert scores[0, 1] == pytest.approx(1) and 0 < scores[0, 2] < 1 and not scores[3].any()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"features": ["bytes 3"]}, "features 'bytes 3': expected a unit and lengths"),
        ({"features": ["words 2-1"]}, "features 'words 2-1'"),
        ({"features": []}, "features is empty"),
        ({"step_weights": [0.0]}, "must be above 0 and at most 1"),
        ({"last_items": [0]}, "must be at least 1"),
        ({"weightings": ["tf"]}, "is not one of 'tfidf', 'bm25'"),
    ],
)
def test_mistakes_in_the_section(section: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(EvaluateSpec, {"text_knn": section}, "config.evaluate")


@pytest.mark.parametrize("weighting", ["tfidf", "bm25"])
@pytest.mark.parametrize("titles", [["?", "!!"], ["one"], ["", "a"]])
def test_titles_that_share_nothing_are_alike_in_nothing(titles: list[str], weighting: str) -> None:
    alike = similarity(titles, "words 1-2", weighting)
    scores = (alike.query_NF @ alike.document_NF.T).toarray()
    assert scores.shape == (len(titles), len(titles)) and not scores.any() and not alike.own_N.any()
