"""``dougctl dev`` with fake children: the arguments are shards, nodes, data, port, base port, and --no-restart."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from dougdb.dev import session
from dougdb.dev.layout import Layout, RefusedError
from dougdb.dev.processes import OsLauncher, OsProcess
from dougdb.dev.specs import ChildSpec, Options

CHILD = Path(__file__).with_name("child.py")


class FakeLauncher(OsLauncher):
    def start(self, spec: ChildSpec, log: Path) -> OsProcess:
        return super().start(dataclasses.replace(spec, argv=(sys.executable, "-S", "-E", str(CHILD))), log)


def main() -> int:
    shards, nodes, data, port, base_port, *rest = sys.argv[1:]
    try:
        return session.run(
            Layout(int(shards), int(nodes)),
            data_path=Path(data),
            port=int(port),
            base_port=int(base_port),
            facades=1,
            options=Options("info", {}),
            restart="--no-restart" not in rest,
            launcher=FakeLauncher(),
        )
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
