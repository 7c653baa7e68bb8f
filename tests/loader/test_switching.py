"""Switching: any order, any failure, any number of threads, and the base stays the base."""

from __future__ import annotations

import itertools
import sys
import threading
from pathlib import Path

import pytest
import torch

from adaptrix.loader.merge import Merged
from adaptrix.loader.session import Session
from adaptrix.schema.errors import UsageError

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
half = conftest.load_helper("half_checkpoints", Path(__file__).parent / "half_checkpoints.py")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = half.checkpoint(tmp_path_factory.mktemp("base"))
    root = tmp_path_factory.mktemp("adapters")
    targets = (half.SIX, ["q_proj", "fc1"], ["v_proj", "fc1", "fc2"])
    made = [
        half.weighted(half.peft_adapter(folder, root / f"a{n}", n, target_modules=modules))
        for n, modules in enumerate(targets)
    ]
    return folder, made


def state(base):
    return {name: value.clone() for name, value in base.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_any_order_gives_the_same_weights_and_the_base_back(world):
    folder, adapters = world
    base = half.mapped_base(folder)
    before = state(base)
    sets = [{"a0": 1.0}, {"a1": 0.7}, {"a2": -1.0}, {"a0": 0.3, "a2": 1.0}]
    alone = []
    for weights in sets:
        session = Session(base, adapters)
        session.use(weights)
        alone.append(state(base))
        session.detach()
        assert same(before, state(base))
    session = Session(base, adapters)
    for order in itertools.permutations(range(len(sets)), 3):
        for number in order:
            session.use(sets[number])
            assert same(alone[number], state(base))
    session.detach()
    assert same(before, state(base))


def test_in_place_gives_the_same_weights(world):
    folder, adapters = world
    base = half.load_base(str(folder))
    before = state(base)
    session = Session(base, adapters)
    for weights in ({"a0": 1.0}, {"a1": 0.7, "a2": 1.0}):
        session.use(weights)
        wanted = state(base)
        session.detach()
        tight = Session(base, adapters)
        tight._effect = Merged(base, in_place=True)
        places = {name: value.data_ptr() for name, value in base.model.named_parameters()}
        tight.use({"a1": -1.0})
        assert tight.use(weights).verdict == "PASS"
        assert same(wanted, state(base))
        assert places == {n: value.data_ptr() for n, value in base.model.named_parameters()}
        tight.detach()
        assert same(before, state(base))


def test_a_base_that_cannot_be_restored_is_not_generated_with(world):
    folder, adapters = world
    base = half.load_base(str(folder))
    session = Session(base, adapters)
    session._effect = Merged(base, in_place=True)
    session.use({"a0": 1.0})
    name = next(iter(session._effect._pristine))
    session._effect._pristine[name] = torch.zeros(3)  # as a lost device would have it
    with pytest.raises(RuntimeError):
        session.use({"a1": 1.0})
    with pytest.raises(UsageError, match="could not be restored"):
        session.generate(["one two"])


def test_a_switch_writes_into_the_memory_of_the_last_set(world):
    folder, adapters = world
    base = half.mapped_base(folder)
    session = Session(base, adapters)
    session.use({"a0": 1.0})
    name = "model.layers.0.mlp.fc1.weight"
    place = base.model.get_parameter(name).data_ptr()
    session.use({"a0": 0.5})
    assert base.model.get_parameter(name).data_ptr() == place


@pytest.mark.parametrize("in_place", [False, True])
def test_a_failure_at_any_step_leaves_the_base(world, in_place):
    folder, (good, _, second) = world
    reads = 2 * len(second.adapter.modules)
    for left in range(reads):
        fuse = {"left": 10_000}
        # In place is for devices; a CPU merges so only where nothing is mapped.
        base = half.load_base(str(folder)) if in_place else half.mapped_base(folder)
        before = state(base)
        session = Session(base, [good, half.failing(second, fuse)])
        session._effect = Merged(base, in_place=in_place)
        session.use({"a0": 1.0})
        fuse["left"] = left
        with pytest.raises(OSError, match="disk gone"):
            session.use({"a0": 0.5, "a2": 1.0})
        assert same(before, state(base))
        assert session.plan.modules == ()
        assert session.check.modules == ()
        fuse["left"] = 10_000
        session.use({"a2": 1.0})
        session.detach()
        assert same(before, state(base))


def test_sessions_take_the_base_from_each_other(world):
    folder, adapters = world
    base = half.mapped_base(folder)
    before = state(base)
    first = Session.open(base, adapters[:1])
    merged = state(base)
    second = Session.open(base, adapters[1:2])
    third = Session.open(base, adapters[:1], mode="attached")
    assert same(before, state(base))
    for stale in (first, second):
        with pytest.raises(UsageError, match="another session"):
            stale.generate(["one two"])
    third.detach()
    with pytest.raises(UsageError, match="another session"):
        first.generate(["one two"])
    first.use({"a0": 1.0})
    assert same(merged, state(base))
    first.generate(["one two"])
    first.detach()
    assert same(before, state(base))


class Interrupting:
    """Stands in for ``get_parameter`` and is interrupted at one call, once."""

    def __init__(self, real, at):
        self.real, self.at, self.calls = real, at, 0

    def __call__(self, name):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.real(name)


def test_an_interrupt_between_any_two_parameters_leaves_the_base(world):
    folder, adapters = world
    base = half.mapped_base(folder)
    before = state(base)
    session = Session(base, adapters)
    real = base.model.get_parameter
    counting = Interrupting(real, -1)
    session.use({"a1": 1.0})
    base.model.get_parameter = counting
    session.use({"a2": 1.0})
    total = counting.calls
    assert total > 10
    for at in range(1, total + 1):
        base.model.get_parameter = real
        session.use({"a1": 1.0})
        base.model.get_parameter = Interrupting(real, at)
        with pytest.raises(KeyboardInterrupt):
            session.use({"a2": 1.0})
        base.model.get_parameter = real
        assert same(before, state(base))


def test_generation_never_sees_a_half_switched_model(world):
    folder, adapters = world
    base = half.mapped_base(folder)
    session = Session(base, adapters)
    sets = [{"a0": 3.0}, {"a1": 2.0}, {}]
    options = half.GenerateOptions(max_new_tokens=6)
    possible = []
    for weights in sets:
        session.use(weights)
        possible.append(session.generate(["one two"], options)[0].text)
    assert len(set(possible)) > 1
    seen, failures = set(), []
    done = threading.Event()

    def talk():
        try:
            while not done.is_set():
                seen.add(session.generate(["one two"], options)[0].text)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=talk) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        for weights in sets:
            session.use(weights)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert seen
    assert seen <= set(possible)
