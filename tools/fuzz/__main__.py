"""``make fuzz-storage``: fuzzes every decoder for some CPU minutes each, one worker process at a time for a target.

All its files are in ``out/fuzz``: the growing corpus and the log of each target, and the findings. Exit codes:
0 no finding; 1 findings, each with the command that repeats it; 2 wrong usage, or no atheris.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tools.fuzz.corpus import keep
from tools.fuzz.targets import ROOT, TARGETS, corpus_of

from raft_testing.fuzz.target import load_corpus

OUT = ROOT / "out/fuzz"
FINDINGS = OUT / "findings"
PROGRESS_EVERY_S = 30.0
POLL_S = 1.0
RUN_S_MAX = 60
"""How long an input may take by the clock before it ends the worker; too much CPU time is noticed earlier."""
RSS_MB_MAX = 2048
RESTARTS_MAX = 5
INTERRUPTED = 130
NO_ATHERIS = (
    "atheris is not installed, and has no wheel for this Python and machine. Without it every target runs over its "
    "seeds and its kept corpus: .venv/bin/pytest services/raft-node/tests/unit/test_fuzz_targets.py tests/test_fuzz.py"
)
_STATUS = re.compile(r"^#(\d+)\s.*\bcov: (\d+) ft: (\d+) corp: (\d+)", re.MULTILINE)
_DONE = re.compile(r"^done (\d+) ([\d.]+)$", re.MULTILINE)
_FINDING = re.compile(r"^finding (\S+) (.*)$", re.MULTILINE)
_ARTIFACT = re.compile(r"Test unit written to (\S+)")


@dataclass
class Outcome:
    """The results of one target."""

    name: str
    cpu_s: float = 0.0
    executions: int = 0
    coverage: int = 0
    features: int = 0
    corpus: int = 0
    findings: dict[str, str] = field(default_factory=dict)
    """The reason of each finding, by its file."""

    def take(self, output: str, log: str) -> None:
        """Takes the output and the log of one worker."""
        for match in _FINDING.finditer(output):
            self.findings[match[1]] = match[2]
        for match in _ARTIFACT.finditer(log):
            self.findings[match[1]] = "it ended the process: see the log"
        statuses = _STATUS.findall(log)
        if statuses:
            _, self.coverage, self.features, self.corpus = map(int, statuses[-1])


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = argparse.ArgumentParser(prog="make fuzz-storage", description="Fuzzes the decoders with atheris.")
    parser.add_argument("--target", default="", help=f"some of: {', '.join(TARGETS)}; with commas between (all)")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU minutes for each target (10)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time (1)")
    parser.add_argument("--repeat", default="", metavar="FILE", help="run one finding again, without atheris")
    parser.add_argument("--keep", action="store_true", help="only write the smallest inputs found so far to the corpus")
    parsed = parser.parse_args(arguments)
    names = parsed.target.split(",") if parsed.target else list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"unknown target {unknown[0]}; there are {', '.join(TARGETS)}")
    if parsed.repeat:
        return repeat(Path(parsed.repeat))
    if parsed.keep:
        for name in names:
            print(f"{name}: {keep(TARGETS[name], corpus_of(name), OUT / name)} inputs are kept")
        return 0
    if importlib.util.find_spec("atheris") is None:
        print(NO_ATHERIS, file=sys.stderr)
        return 2
    return fuzz_all(names, parsed.minutes * 60, parsed.jobs)


def fuzz_all(names: list[str], cpu_s: float, jobs: int) -> int:
    """Fuzzes targets, some at a time, and reports; also when it is interrupted."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    outcomes = [Outcome(name) for name in names]
    stop = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        tasks = [pool.submit(fuzz, outcome, cpu_s, stop) for outcome in outcomes]
        try:
            for task in tasks:
                task.result()
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(cancel_futures=True)
            report([outcome for outcome in outcomes if outcome.cpu_s])
            return INTERRUPTED
    return report(outcomes)


def repeat(path: Path) -> int:
    """Runs one input again; a finding raises."""
    name = path.name.partition("-")[0]
    if name not in TARGETS:
        print(f"{path.name} does not begin with the name of a target and a dash", file=sys.stderr)
        return 2
    TARGETS[name].run(path.read_bytes())
    print(f"{name}: {path} runs to its end")
    return 0


def inputs_of(name: str) -> list[bytes]:
    """The inputs with which a target begins: its seeds and its corpus."""
    return TARGETS[name].inputs() + load_corpus(corpus_of(name))


def fuzz(outcome: Outcome, cpu_s: float, stop: threading.Event) -> None:
    """Fuzzes one target for ``cpu_s`` seconds of CPU time; starts again if an input ended the process."""
    corpus = OUT / outcome.name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in inputs_of(outcome.name):
        (corpus / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    for _ in range(RESTARTS_MAX):
        if outcome.cpu_s >= cpu_s or not _one_worker(outcome, corpus, cpu_s - outcome.cpu_s, stop):
            break


def _one_worker(outcome: Outcome, corpus: Path, cpu_s: float, stop: threading.Event) -> bool:
    """Runs one worker to its end; returns whether an input, and not the time, ended it."""
    name = outcome.name
    limits = [f"-timeout={RUN_S_MAX}", f"-report_slow_units={RUN_S_MAX}", f"-rss_limit_mb={RSS_MB_MAX}"]
    options = [*limits, f"-artifact_prefix={FINDINGS}/{name}-"]
    command = [sys.executable, "-m", "tools.fuzz.worker", name, str(cpu_s), str(FINDINGS), *options, str(corpus)]
    log_path, output_path = OUT / f"{name}.log", OUT / f"{name}.out"
    begun_s = told_s = time.monotonic()
    with log_path.open("wb") as log, output_path.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=log, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None and not stop.wait(POLL_S):
                if time.monotonic() - told_s >= PROGRESS_EVERY_S:
                    told_s = time.monotonic()
                    outcome.take(output_path.read_text(), log_path.read_text(errors="replace"))
                    _tell(outcome, told_s - begun_s)
        finally:
            process.kill()
    text, said = output_path.read_text(), log_path.read_text(errors="replace")
    outcome.take(text, said)
    done = _DONE.search(text)
    statuses = _STATUS.findall(said)
    outcome.executions += int(done[1]) if done else int(statuses[-1][0]) if statuses else 0
    # A worker that was ended by an input does not tell its CPU time; the time on the clock is an upper bound.
    outcome.cpu_s += float(done[2]) if done else time.monotonic() - begun_s
    ended_by_an_input = _ARTIFACT.search(said) is not None
    if done is None and not ended_by_an_input and not stop.is_set():
        outcome.findings[str(log_path)] = "the worker did not come to its end: see its log"
    return done is None and ended_by_an_input and not stop.is_set()


def _tell(outcome: Outcome, passed_s: float) -> None:
    print(
        f"{outcome.name}: {passed_s:.0f} s, coverage {outcome.coverage}, features {outcome.features}, "
        f"corpus {outcome.corpus}, findings {len(outcome.findings)}",
        flush=True,
    )


def report(outcomes: list[Outcome]) -> int:
    """Prints the table and the findings; the exit code."""
    print(
        f"{'target':<14}{'CPU min':>8}{'executions':>12}{'coverage':>10}{'features':>10}{'corpus':>8}{'findings':>10}"
    )
    for one in outcomes:
        print(
            f"{one.name:<14}{one.cpu_s / 60:>8.1f}{one.executions:>12}{one.coverage:>10}{one.features:>10}"
            f"{one.corpus:>8}{len(one.findings):>10}"
        )
    found = [(one.name, path, reason) for one in outcomes for path, reason in one.findings.items()]
    for name, path, reason in found:
        print(f'{name}: {reason}\n  again: make fuzz-storage ARGS="--repeat {Path(path)}"')
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
