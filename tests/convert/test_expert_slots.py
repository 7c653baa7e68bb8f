"""Experts that are asked for by two threads, each at a parameter of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from adaptrix.convert.arrays import content
from adaptrix.convert.layouts import experts
from adaptrix.schema.tensor import DType, LazyTensor


def test_one_thread_does_not_drive_out_what_another_holds():
    loads = []

    def tensor(name, seed):
        value = np.random.default_rng(seed).standard_normal((6, 8), dtype=np.float32)

        def load():
            loads.append(name)
            return content(value)

        return value, LazyTensor(dtype=DType.F32, shape=(6, 8), source=name, load=load)

    pairs = [tensor("one", 1), tensor("two", 2)]
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for expert in range(4):
            for pool, (value, b) in zip((first, second), pairs, strict=True):
                column = experts._columns(b, 4, expert)
                got = np.frombuffer(pool.submit(column.load).result(), "<f4").reshape(6, 2)
                # Factors of an expert are interleaved: rank index first, expert last.
                np.testing.assert_array_equal(got, value[:, expert::4])
    assert sorted(loads) == ["one", "two"]
