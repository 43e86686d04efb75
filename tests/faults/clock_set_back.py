"""python clock_set_back.py ...: `python -m sweep.run ...` whose clock SIGUSR1 sets back by an hour."""

import signal
import sys
import time

clock, hours = time.time, [0]
time.time = lambda: clock() - 3600 * hours[0]
signal.signal(signal.SIGUSR1, lambda *_: hours.append(hours.pop() + 1))

if __name__ == "__main__":
    from sweep.run import main

    sys.exit(main())
