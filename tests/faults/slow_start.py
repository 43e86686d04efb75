"""python slow_start.py ...: `python -m sweep.run ...` on a machine so busy that Ray is first up after 35 seconds."""

import sys
import time

from sweep.execution import ray_session

if __name__ == "__main__":
    from ray._private import services

    from sweep.run import main

    assert ray_session
    began, get_node = [], services.get_node

    def late(*arguments):
        began.append(time.monotonic())
        if began[-1] - began[0] < 35:
            time.sleep(0.1)
            raise RuntimeError("not yet")
        return get_node(*arguments)

    services.get_node = late
    sys.exit(main(sys.argv[1:]))
