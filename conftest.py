"""What holds for every test, wherever pytest is started.

A background shell starts its programs with SIGINT ignored, and they hand that on to whatever they start. Tests of
Ctrl-C need the signal as a terminal's program has it. And no test fails for the time that hypothesis takes over
an example: that is a matter of what else the machine does.
"""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
