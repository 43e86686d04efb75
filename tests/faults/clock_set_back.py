"""python clock_set_back.py ...: `python -m sweep.run ...` whose clock is set back by an hour after eight seconds."""

import sys
import time

clock, started = time.time, time.monotonic()
time.time = lambda: clock() - (3600 if time.monotonic() - started > 8 else 0)

if __name__ == "__main__":
    from sweep.run import main

    sys.exit(main())
