import time

from trainer.pulse import Pulse


def test_it_speaks_again_and_again_until_it_is_left() -> None:
    said: list[str] = []
    began = time.monotonic()  # before the first pause begins
    with Pulse(said.append, lambda: "still at it", pause=0.2):
        while len(said) < 2 and time.monotonic() - began < 60:
            time.sleep(0.01)
        assert said[:2] == ["still at it"] * 2
        assert time.monotonic() - began >= 0.4
    count = len(said)
    time.sleep(0.3)
    assert len(said) == count


def test_it_has_nothing_to_say() -> None:
    said: list[str] = []
    with Pulse(said.append, lambda: "", pause=0.01):
        time.sleep(0.1)
    assert said == []
