"""What holds for every test, wherever pytest is started.

A background shell starts its programs with SIGINT ignored, and they hand that on to whatever they start. Tests of
Ctrl-C need the signal as a terminal's program has it.
"""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
