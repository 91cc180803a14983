"""users.html: a few users of each set, with their history, what each method recommends, and what came next."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cprec_jax.evaluate.results import RANDOM, Result, read_examples
from cprec_jax.report.html import CSS, POLICY
from cprec_jax.report.render import one_line

HISTORY = 15  # newest items shown
STYLE = """
.users { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 14px; margin: 10px 0 26px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; overflow-wrap: anywhere; }
.card ol { margin: 6px 0; padding-left: 24px; font-size: 13px; }
.card .p { color: var(--soft); font-size: 12px; white-space: nowrap; }
.hit { background: #d9f2e4; font-weight: 600; }
.target { background: var(--fill); border-left: 3px solid var(--accent); padding: 4px 10px; margin: 6px 0;
  overflow-wrap: anywhere; }
"""


def users_page(title: str, results: Sequence[Result], sets: Sequence[str]) -> str:
    """One page for the users that results kept examples of; empty where none did. It loads nothing from anywhere."""
    kept = {
        result.name: examples for result in results if result.kind != RANDOM and (examples := read_examples(result))
    }
    if not kept:
        return ""
    sections: list[str] = []
    links: list[str] = []
    for name in sets:
        users = dict.fromkeys(user for examples in kept.values() for user in examples.get(name, {}))
        for number, user in enumerate(users, start=1):
            anchor = f"user-{len(links) + 1}"
            by_method = {
                method: examples[name][user] for method, examples in kept.items() if user in examples.get(name, {})
            }
            links.append(f'<a href="#{anchor}">{_text(name)} {number}</a>')
            sections.append(
                f'<section id="{anchor}"><h2>{_text(name)}, user {_text(user)}</h2>{_user(by_method)}</section>'
            )
    heading = f"{title}: users"
    intro = (
        "Some test users. Histories run from the oldest to the newest item; probabilities are those of the whole "
        "catalogue of the set. "
    )
    intro += (
        "Lists are in the order of the scores; the probabilities of baselines are smoothed, so their order may be "
        "another."
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{_text(heading)}</title>\n<style>{CSS}{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<header><h1>{_text(heading)}</h1><p class="soft">{intro}</p><nav>{"".join(links)}</nav></header>\n'
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _user(by_method: Mapping[str, Mapping[str, Any]]) -> str:
    first = next(iter(by_method.values()))
    history = first["history"]
    dropped = max(len(history) - HISTORY, 0)
    earlier = f'<p class="soft">and {dropped} earlier items</p>' if dropped else ""
    items = "".join(f"<li>{_text(title)}</li>" for title in history[-HISTORY:])
    past = f'<div class="card"><h3>History</h3>{earlier}<ol start="{dropped + 1}">{items}</ol></div>'
    cards = "".join(_method(name, example) for name, example in by_method.items())
    return (
        f'<p class="target">What came next: <b>{_text(first["target"])}</b></p><div class="users">{past}{cards}</div>'
    )


def _method(name: str, example: Mapping[str, Any]) -> str:
    lines = []
    for title, probability in example["top"]:
        hit = ' class="hit"' if title == example["target"] else ""
        lines.append(f"<li{hit}>{_text(title)} {_probability(probability)}</li>")
    target = f"Target: rank {example['rank']:,.0f} {_probability(example['probability'])}"
    return f'<div class="card"><h3>{_text(name)}</h3><ol>{"".join(lines)}</ol><p class="soft">{target}</p></div>'


def _probability(value: float | None) -> str:
    if value is None:
        return ""
    shown = f"{value:.2%}" if value >= 0.0001 else f"{value:.1e}"
    return f'<span class="p">{shown}</span>'


def _text(text: Any) -> str:
    return escape(one_line(str(text)))
