"""MovieLens-1M from GroupLens, as published: a downstream set split by leave-one-out, like most published figures on
it.

    python launch.py prepare --config=configs/corpora/movielens_1m.py --workdir=runs/movielens
    --config.corpus.download=true

fetches `ml-1m.zip` (6 MB) into `data/movielens` and checks it against the MD5 that GroupLens publishes beside it. The
data may be used for research under the terms of its README, and may not be redistributed.
"""

from ml_collections import ConfigDict

ARCHIVE = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "movielens-1m"
    remote = {"url": ARCHIVE, "checksum_url": f"{ARCHIVE}.md5"}
    config.corpus = {
        "root": "data/movielens",
        "sources": [
            {
                "name": "ml1m",
                "role": "downstream",
                "adapter": "movielens",
                "platform": "movielens",
                "interactions": "ratings.dat",
                "items": "movies.dat",
                "split": "leave_one_out",
                "urls": {
                    "interactions": {**remote, "member": "ml-1m/ratings.dat"},
                    "items": {**remote, "member": "ml-1m/movies.dat"},
                },
            },
        ],
        "titles": {"policy": "distinguish"},
        "k_core": 0,
    }
    return config
