"""The command ``facade``: reads the settings, binds the addresses, serves. Exit codes: 0 stopped, 2 could not start."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence

from doug_wire import cores, native
from facade import __version__
from facade.app import environment, logs, security, server, tracing
from facade.errors import AddressError, SettingsError

EXIT_CANNOT_START = 2

_SWITCH_INTERVAL_S = 0.0005


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the facade."""
    parser = argparse.ArgumentParser(
        prog="facade", description="The HTTP entry point of DougDB. Settings are environment variables DOUGDB_*."
    )
    parser.add_argument("--version", action="version", version=f"facade {__version__}{native.said()}")
    parser.parse_args(arguments)
    if not __debug__:
        sys.stderr.write("facade: assertions are part of the program; run Python without -O\n")
        return EXIT_CANNOT_START
    cores.disable()
    try:
        settings = environment.load()
        logs.configure(settings.log_format, settings.log_level, settings.facade_id)
        certificates = security.load(settings)
        traces = tracing.load(settings)
        sockets = server.bind(settings.listen, settings.shared_listen)
    except (SettingsError, AddressError) as error:
        sys.stderr.write(f"facade: {error}\n")
        return EXIT_CANNOT_START
    # gRPC's thread hands every answer over; it must not wait 5 ms for the interpreter while a range is encoded.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(server.serve(settings, sockets, certificates, traces))
    except SettingsError as error:
        sys.stderr.write(f"facade: {error}\n")
        return EXIT_CANNOT_START
    finally:
        if traces is not None:
            traces.close()
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """The loop of uvloop where it exists: twice as fast on this path."""
    if sys.platform == "win32":
        return asyncio.new_event_loop
    import uvloop  # noqa: PLC0415  # It does not exist on Windows.

    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
