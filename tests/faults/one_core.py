"""python one_core.py ...: `python -m sweep.run ...` in a process that may use one core only."""

import os
import sys

if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    from sweep.run import main

    sys.exit(main(sys.argv[1:]))
