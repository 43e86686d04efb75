"""LCBench (Zimmer, Lindauer and Hutter 2021), as YAHPO Gym's network tells it (Pfisterer et al. 2022).

The network is a residual one over a configuration, an epoch and what tells the data sets apart; of its six outputs only
validation accuracy is used.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sweep.core.trial import Params
from sweep.simulation.surrogate import SurrogateTask

_FILE = Path(__file__).parent / "curves" / "lcbench_network.npz"
_IN_LOGARITHMS = (0, 2, 4)  # of its inputs: epoch, learning rate, weight decay
_ACCURACY = 1  # of its outputs
_SCALE, _SHIFT = 32.23385, -27.631021  # of the logarithm of an output
_LOWEST = {"189906": 0.0473}  # what a local search finds


class LCBench(SurrogateTask):
    """The error of a network on one data set: 1 - validation accuracy, the lowest so far, without noise.

    Args:
        keys: the parameters, in the order of the network's inputs.
        data_set: its number at OpenML.
    """

    epochs = 52

    def __init__(self, keys: Sequence[str], data_set: str) -> None:
        with np.load(_FILE) as file:
            self._net = dict(file)
        self._keys = tuple(keys)
        self._who = self._net["emb"][json.loads(str(self._net["encoding"]))[data_set]]
        self._lowest = _LOWEST[data_set]
        self._known = functools.cache(self._computed)

    def seconds(self, epoch: int) -> float:
        """A minute."""
        return 60.0

    def curve(self, params: Params, seed: int) -> NDArray[np.float64]:
        """The error by epoch, (E,)."""
        return self._known(tuple(params[key] for key in self._keys))

    def true_nme(self, params: Params) -> float:
        """That of the last epoch."""
        return float(self.curve(params, 0)[-1])

    @property
    def best(self) -> float:
        """What a local search finds."""
        return self._lowest

    def _computed(self, values: tuple[float, ...]) -> NDArray[np.float64]:
        net = self._net
        inputs = np.empty((self.epochs, 1 + len(values)))
        inputs[:, 0], inputs[:, 1:] = np.arange(1, self.epochs + 1), values
        for column in _IN_LOGARITHMS:
            inputs[:, column] = np.log(inputs[:, column] + 1e-12)
        scaled = ((inputs - net["shift"]) / net["scale"]).astype(np.float32)
        hidden = np.concatenate([np.tile(self._who, (self.epochs, 1)), scaled], axis=1) @ net["W0"].T + net["b0"]
        for i in map(str, range(3)):
            gate = (hidden * net["g" + i] + net["c" + i]) @ net["A" + i].T + net["a" + i]
            left, right = np.split(gate, 2, axis=1)
            hidden = hidden + (left * np.maximum(right, 0)) @ net["B" + i].T + net["d" + i]
        last = np.maximum(hidden * net["gl"] + net["cl"], 0) @ net["Wh"][_ACCURACY] + net["bh"][_ACCURACY]
        accuracy = np.exp(1 / (1 + np.exp(-last)) * _SCALE + _SHIFT)
        return np.minimum.accumulate(np.clip(1 - accuracy / 100, 1e-4, 1.0).astype(np.float64))
