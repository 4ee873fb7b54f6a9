"""Draws histories: as lines of text for a terminal, and as SVG. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import inf

from dougdb.verify.history import Cas, Delete, Get, Increment, Outcome, Put, Recorded, Request, Txn

_ROW, _LEFT, _WIDTH = 34, 90, 1000


def request_text(request: Request) -> str:
    """A request in a few words."""
    if isinstance(request, Get):
        return f"get {request.key}"
    if isinstance(request, Put):
        return f"put {request.key}={request.value}"
    if isinstance(request, Delete):
        return f"delete {request.key}"
    if isinstance(request, Cas):
        return f"cas {request.key}@{request.revision}={request.value}"
    if isinstance(request, Increment):
        return f"increment {request.key} by {request.by}"
    assert isinstance(request, Txn)
    compares = ", ".join(f"{each.key}=={each.value}" for each in request.compares)
    parts = "; ".join(map(request_text, request.success))
    return f"txn [{compares}] {{{parts}}}"


def outcome_text(outcome: Outcome | None) -> str:
    """An outcome in a few words."""
    if outcome is None:
        return "?"
    revision = "" if outcome.revision is None else f"@{outcome.revision}"
    if outcome.results:
        return ("yes" if outcome.ok else "no") + ": " + "; ".join(map(outcome_text, outcome.results))
    if not outcome.ok:
        return f"failed{revision}"
    return f"{'none' if outcome.value is None else outcome.value}{revision}"


def _line(each: Recorded) -> str:
    outcome = each.outcome
    if isinstance(each.request, Put | Delete | Cas) and outcome is not None and outcome.ok:
        answer = "ok" if outcome.revision is None else f"ok@{outcome.revision}"
    else:
        answer = outcome_text(outcome)
    return f"{request_text(each.request)} -> {answer}"


def _span(history: Sequence[Recorded]) -> tuple[float, float]:
    times = [each.began for each in history] + [each.ended for each in history if each.ended < inf]
    first, last = min(times), max(times)
    return first, max(last - first, 1e-9)


def text_of(history: Sequence[Recorded], width: int = 40) -> str:
    """One line for each request, in the order of their beginnings, with bars that show which requests overlap.

    Args:
        history: The requests.
        width: The columns of the bars.
    """
    if not history:
        return ""
    first, span = _span(history)
    lines = []
    for each in sorted(history, key=lambda found: found.began):
        start = round((each.began - first) / span * (width - 1))
        end = width if each.ended == inf else max(start + 1, round((each.ended - first) / span * (width - 1)) + 1)
        bar = " " * start + ("|" + "-" * (end - start - 1))
        bar = bar[: width - 1] + (">" if each.ended == inf else bar[width - 1 :])
        lines.append(f"p{each.process:<4} {bar:<{width}} {_line(each)}")
    return "\n".join(lines)


def svg_of(history: Sequence[Recorded], title: str = "") -> str:
    """The same picture as an SVG document."""
    first, span = _span(history) if history else (0.0, 1.0)
    processes = sorted({each.process for each in history})
    rows = sorted(history, key=lambda found: (found.process, found.began))
    height = _ROW * (len(rows) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 320} {height}" '
        'font-family="monospace" font-size="13">',
        f'<title>{escape(title)}</title><text x="8" y="20">{escape(title)}</text>',
    ]
    for number, each in enumerate(rows, 1):
        y = _ROW * number
        x = _LEFT + (each.began - first) / span * _WIDTH
        end = _LEFT + _WIDTH if each.ended == inf else _LEFT + (each.ended - first) / span * _WIDTH
        colour = "#c9a227" if each.outcome is None else "#3b7dd8"
        shade = "#f2f2f2" if processes.index(each.process) % 2 else "#ffffff"
        parts.append(f'<rect x="0" y="{y}" width="{_LEFT + _WIDTH + 320}" height="{_ROW}" fill="{shade}"/>')
        parts.append(f'<text x="8" y="{y + 21}">process {each.process}</text>')
        parts.append(f'<rect x="{x:.1f}" y="{y + 24}" width="{max(2.0, end - x):.1f}" height="6" fill="{colour}"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 18}">{escape(_line(each))}</text>')
    return "\n".join([*parts, "</svg>", ""])
