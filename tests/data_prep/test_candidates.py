import numpy as np
import pytest

from data_prep.candidates import draw_candidates


def world(seed=0, n_users=3000, n_items=800, history=8):
    """Users whose targets follow popularity; histories are uniform. Lengths of titles say nothing about either."""
    rng = np.random.default_rng(seed)
    weight = (1.0 + np.arange(n_items)) ** -0.7
    count = rng.poisson(20_000 * weight / weight.sum())
    items = rng.permuted(np.tile(np.arange(n_items), (n_users, 1)), axis=1)[:, :history]
    return {
        "user": rng.integers(0, 2**60, n_users),
        "target": rng.choice(n_items, n_users, p=weight / weight.sum()),
        "offsets": np.arange(n_users + 1) * history,
        "history": items.reshape(-1),
        "train_count": count,
        "title_id": np.arange(n_items),
    }


def title_lengths(n_items=800):
    return np.random.default_rng(1).permutation(n_items)


def draw(protocol, users, **other):
    return draw_candidates(protocol, **{"set_name": "books", "split": "test", "seed": 0, **users, **other})


@pytest.fixture(scope="module")
def users():
    return world()


@pytest.mark.parametrize("protocol", ["u20", "u100", "p20"])
def test_lists_hold_the_target_once_and_nothing_known(users, protocol):
    lists = draw(protocol, users)
    assert lists.shape == (3000, int(protocol[1:]))
    assert np.all((lists == users["target"][:, None]).sum(axis=1) == 1)
    assert np.all(np.diff(np.sort(lists, axis=1), axis=1) > 0)
    history = users["history"].reshape(3000, -1)
    known = (lists[:, :, None] == history[:, None, :]).any(axis=2) & (lists != users["target"][:, None])
    assert not known.any()


def test_lists_depend_on_user_set_protocol_and_split_only(users):
    lists = draw("u20", users)
    some = np.arange(3000)[::-7]
    fewer = {name: users[name][some] for name in ("user", "target")}
    fewer |= {"offsets": np.arange(len(some) + 1) * 8, "history": users["history"].reshape(3000, 8)[some].reshape(-1)}
    assert np.array_equal(draw("u20", {**users, **fewer}), lists[some])
    for other in ({"set_name": "films"}, {"split": "valid"}, {"seed": 1}):
        assert (np.sort(draw("u20", users, **other)) == np.sort(lists)).mean() < 0.5


def test_uniform_negatives_are_uniform(users):
    lists = draw("u20", users)
    negatives = lists[lists != users["target"][:, None]]
    counts = np.bincount(negatives, minlength=800)
    expected = len(negatives) / 800
    # Chi-square over 799 degrees of freedom: mean 799, standard deviation 40. Barring targets lowers popular items a
    # little.
    assert ((counts - expected) ** 2 / expected).sum() < 799 + 6 * 40


@pytest.mark.parametrize("protocol", ["u20", "u100", "p20"])
def test_slot_probe(users, protocol):
    """No slot is better than another at finding the target, nor is the slot of the same user's other split."""
    width = int(protocol[1:])
    slot = np.argmax(draw(protocol, users) == users["target"][:, None], axis=1)
    assert chi_square(np.bincount(slot, minlength=width)) < width - 1 + 5 * np.sqrt(2 * (width - 1))
    other = {**users, "target": np.random.default_rng(5).permutation(users["target"])}
    valid_slot = np.argmax(draw(protocol, other, split="valid") == other["target"][:, None], axis=1)
    assert abs((valid_slot == slot).mean() - 1 / width) < 5 * np.sqrt(1 / width / 3000)


def chi_square(counts: np.ndarray) -> float:
    return ((counts - counts.mean()) ** 2 / counts.mean()).sum()


def length_probe(lists: np.ndarray, target: np.ndarray, length: np.ndarray) -> float:
    """How many standard errors the rule "the longest title" is away from chance.

    `length` is what the drawing could know. Targets of one item stand or fall together with its length, so the items
    are the sample.
    """
    hit = lists[np.arange(len(lists)), np.argmax(length[lists], axis=1)] == target
    by_item = np.bincount(target, weights=hit - 1 / lists.shape[1])
    return by_item.sum() / np.sqrt((by_item**2).sum())


@pytest.mark.parametrize("protocol", ["u20", "u100", "p20"])
def test_title_length_probe(users, protocol):
    """A rule that picks the longest title is at chance where length says nothing about popularity; the probe can
    tell."""
    length = title_lengths()
    assert abs(length_probe(draw(protocol, users), users["target"], length)) < 4
    # As if it drew only titles of the shorter half: the longer ones are barred as if everybody knew them.
    known = np.tile(np.flatnonzero(length >= 400), (3000, 1))
    short = {**users, "history": known.reshape(-1), "offsets": np.arange(3001) * known.shape[1]}
    assert length_probe(draw(protocol, short), users["target"], length) > 6


@pytest.mark.parametrize("protocol", ["u20", "u100", "p20"])
def test_probes_on_the_files_of_a_corpus(synthetic_corpus, protocol):
    """The same of candidate files as `prepare` wrote them, with the lengths of the titles as they are."""
    rng, width = np.random.default_rng(0), int(protocol[1:])
    slots, ranks = [], []
    lengths = np.array([len(title) for title in synthetic_corpus.items.title]) + rng.random(len(synthetic_corpus.items))
    for name in synthetic_corpus.sets:
        lists, target = (
            synthetic_corpus.candidates("test", name, protocol),
            synthetic_corpus.targets("test", name).target,
        )
        assert lists.shape == (len(target), width)
        slots.append(np.argmax(lists == target[:, None], axis=1))
        ranks.append(length_probe(lists, target, lengths))
    assert chi_square(np.bincount(np.concatenate(slots), minlength=width)) < width - 1 + 5 * np.sqrt(2 * (width - 1))
    assert np.abs(ranks).max() < 4


def test_popularity_is_strong_on_uniform_and_near_chance_on_matched_negatives(users):
    def hit_rate(protocol):
        lists = draw(protocol, users)
        score = users["train_count"][lists]
        best = score == score.max(axis=1, keepdims=True)
        return ((lists == users["target"][:, None]) & best).sum(axis=1) @ (1.0 / best.sum(axis=1)) / 3000

    assert hit_rate("u20") > 0.2
    # Negatives are distinct, so the head of a steep distribution stays a little ahead.
    assert 0.03 < hit_rate("p20") < 0.08


def test_titles_like_the_target_are_no_negatives(users):
    title_id = np.arange(800) // 4
    lists = draw("u100", users, title_id=title_id)
    assert np.all((title_id[lists] == title_id[users["target"]][:, None]).sum(axis=1) == 1)


@pytest.mark.parametrize("protocol", ["u20", "p20"])
def test_users_who_know_nearly_everything(protocol):
    users = world(n_users=50, n_items=60, history=40)
    lists = draw(protocol, users)
    possible = 60 - 40 - (~(users["history"].reshape(50, 40) == users["target"][:, None]).any(axis=1)).astype(int)
    assert lists.shape[1] == min(20, possible.min() + 1)
    history = users["history"].reshape(50, 40)
    assert not ((lists[:, :, None] == history[:, None, :]).any(axis=2) & (lists != users["target"][:, None])).any()


def test_small_catalogue_shortens_the_lists_and_an_exhausted_one_gives_only_targets():
    users = world(n_users=5, n_items=10, history=3)
    assert draw("u100", users).shape[1] in (7, 8)
    everything = {"history": np.tile(np.arange(10), 5), "offsets": np.arange(6) * 10}
    assert draw("u100", {**users, **everything}).shape == (5, 1)
    nobody = {
        "user": np.zeros(0, np.int64),
        "target": np.zeros(0, np.int64),
        "offsets": np.zeros(1, np.int64),
        "history": np.zeros(0, np.int64),
    }
    assert draw("u20", {**users, **nobody}).shape[0] == 0
