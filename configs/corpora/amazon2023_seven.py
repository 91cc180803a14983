"""Amazon 2023, seven domains to pre-train on, and five sets of two platforms to rank: the corpus of the paper's data.

    python launch.py prepare --config=configs/corpora/amazon2023_seven.py --workdir=runs/amazon2023
    --config.corpus.root=DIR

DIR holds, as published, `DOMAIN.jsonl.gz` and `meta_DOMAIN.jsonl.gz` of https://amazon-reviews-2023.github.io for the
ten categories below, and `Bili_Food/Bili_Food_{pair,item}.csv`, `Bili_Movie/Bili_Movie_{pair,item}.csv` of
https://github.com/westlake-repl/NineRec. The argument `csv` (`--config=configs/corpora/amazon2023_seven.py:csv`) takes
the reviews from the much smaller `DOMAIN.csv.gz` with the columns `user_id,parent_asin,rating,timestamp`.
`--config.corpus.download=true` fetches what is missing of Amazon (no checksums are published, so the SHA-256 of what
came is printed and kept in the manifest). NineRec lies behind links for browsers: its four files have to be put in
place by hand.
"""

from ml_collections import ConfigDict

PRETRAIN = (
    "Automotive",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Electronics",
    "Grocery_and_Gourmet_Food",
    "Home_and_Kitchen",
    "Movies_and_TV",
)
DOWNSTREAM = {
    "Scientific": "Industrial_and_Scientific",
    "Instruments": "Musical_Instruments",
    "Office": "Office_Products",
}
AMAZON = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
REVIEWS = {"jsonl": f"{AMAZON}/raw/review_categories", "csv": f"{AMAZON}/benchmark/0core/rating_only"}
BILIBILI = ("Bili_Food", "Bili_Movie")


def get_config(reviews: str = "jsonl") -> ConfigDict:
    if reviews not in ("jsonl", "csv"):
        raise ValueError(f"reviews {reviews!r}: choose jsonl or csv")
    config = ConfigDict()
    config.name = "amazon2023-seven"
    categories = [(name, "pretrain", name) for name in PRETRAIN] + [
        (name, "downstream", file) for name, file in DOWNSTREAM.items()
    ]
    sources = [
        {
            "name": name,
            "role": role,
            "adapter": "amazon2023",
            "platform": "amazon",
            "interactions": f"{file}.{reviews}.gz",
            "items": f"meta_{file}.jsonl.gz",
            "urls": {
                "interactions": {"url": f"{REVIEWS[reviews]}/{file}.{reviews}.gz"},
                "items": {"url": f"{AMAZON}/raw/meta_categories/meta_{file}.jsonl.gz"},
            },
        }
        for name, role, file in categories
    ]
    sources += [
        {
            "name": name,
            "role": "downstream",
            "adapter": "ninerec",
            "platform": "bilibili",
            "interactions": f"{name}/{name}_pair.csv",
            "items": f"{name}/{name}_item.csv",
            "language": "en",
        }
        for name in BILIBILI
    ]
    config.corpus = {
        "sources": sources,
        # Times of both platforms are quantiles of their downstream sets, since the files grow with every edition; set
        # `times` to fix them.
        "quantiles": (0.8, 0.9),
        "k_core": 5,
        "max_bad_lines": 100_000,  # a file; the largest have 65 million lines, and reviews with negative times occur
        "max_test_users": 10_000,
        "max_valid_users": 2_000,
        "memory_limit": "16GB",
    }
    return config
