"""Every fuzz target over its seeds and over the inputs that fuzzing has left, without a fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest

from raft_testing.fuzz.target import Mode, Target, corpus_line, damaged, load_corpus
from raft_testing.fuzz.targets import TARGETS

CORPUS = Path(__file__).resolve().parent.parent / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_runs_to_its_end(name: str) -> None:
    inputs = TARGETS[name].inputs() + load_corpus(CORPUS / f"{name}.txt")
    assert inputs
    for data in inputs:
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", [name for name in TARGETS if TARGETS[name].repair is not None])
def test_a_repair_leaves_what_is_sound_as_it_is(name: str) -> None:
    repair = TARGETS[name].repair
    assert repair is not None
    for seed in TARGETS[name].seeds():
        assert repair(seed) == seed


def test_every_corpus_belongs_to_a_target() -> None:
    assert {path.stem for path in CORPUS.glob("*.txt")} <= set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.glob("*")) <= 200 << 10


def test_the_first_byte_chooses_the_mode() -> None:
    seen: list[tuple[str, bytes]] = []
    target = Target(
        "name",
        "",
        check=lambda data: seen.append(("check", data)),
        seeds=lambda: [b"seed"],
        repair=lambda data: b"repaired " + data,
        damage=lambda data: seen.append(("damage", data)),
    )
    for data in (b"", b"\0a", b"\1b", b"\2c", b"\3d"):
        target.run(data)
    assert seen == [("check", b"a"), ("check", b"repaired b"), ("damage", b"c"), ("check", b"d")]
    assert [data[0] for data in target.inputs()] == [Mode.RAW, Mode.REPAIRED, Mode.DAMAGED, Mode.DAMAGED]


def test_damage_is_a_few_bits_or_a_cut() -> None:
    sound = bytes(range(100))
    flipped = damaged(sound, (7).to_bytes(4, "little") + b"\1\2\0\0")
    assert [place for place, byte in enumerate(flipped) if byte != sound[place]] == [7, 8]
    assert damaged(sound, bytes(8) + (40).to_bytes(4, "little")) == sound[:40]
    assert damaged(sound, b"") == sound


def test_a_corpus_line_is_its_input(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text(f"# said\n{corpus_line(b'one')}\n\n{corpus_line(bytes(5000))}\n")
    assert load_corpus(path) == [b"one", bytes(5000)]
    assert load_corpus(tmp_path / "none.txt") == []
