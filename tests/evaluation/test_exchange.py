"""Processes that evaluate together, here threads: nothing is lost, and who fails takes the others along."""

import json
import threading
from concurrent import futures

import jax
import pytest

from jaxseg.data import sources
from jaxseg.evaluation import exchange, inference
from tests.evaluation.test_inference import coco_config, folder, shapes_config  # noqa: F401


def run(count, work, store=None):
    """What work(group) returned or raised in each of `count` threads."""
    store = store or exchange.Memory()

    def one(index):
        group = exchange.Group(index, count, store)
        with group.together():
            return work(group)

    with futures.ThreadPoolExecutor(count) as pool:
        found = [pool.submit(one, i) for i in range(count)]
        return [f.exception(timeout=60) or f.result() for f in found]


def gathered(group, mine):
    return group.gather(mine, bytes, bytes)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_first_gets_what_each_hands_in(count, monkeypatch):
    monkeypatch.setattr(exchange, "PIECE", 3)
    parts = [bytes(range(i, 9 * i)) for i in range(count)]  # 0, 8, 16 ... bytes
    store = exchange.Memory()
    first, *others = run(count, lambda group: gathered(group, parts[group.index]), store)
    assert first == parts and others == [None] * (count - 1)
    assert not [key for key in store.values if "/from/" in key]  # what was read is not kept


def test_few_pieces_are_in_the_store_at_a_time(monkeypatch):
    monkeypatch.setattr(exchange, "PIECE", 1)

    class Watched(exchange.Memory):
        most = 0

        def set(self, key, value):
            super().set(key, value)
            pieces = [k for k in self.values if "/from/" in k and k.rpartition("/")[2].isdigit()]
            self.most = max(self.most, len([k for k in pieces if "asked" not in k]))

    store = Watched()
    data = bytes(30)
    assert run(3, lambda group: gathered(group, data), store)[0] == [data] * 3
    assert 1 <= store.most <= exchange._AHEAD


def test_rounds_do_not_mix_and_leave_little_behind():
    store = exchange.Memory()
    groups = [exchange.Group(i, 3, store) for i in range(3)]

    def many(group):
        found = []
        for number in range(20):
            with group.together():
                found.append(gathered(group, bytes([number, group.index])))
        return found

    with futures.ThreadPoolExecutor(3) as pool:
        first, *_ = pool.map(many, groups)
    assert first == [[bytes([n, i]) for i in range(3)] for n in range(20)]
    assert len(store.values) <= 8  # of the last two rounds


def test_a_slow_one_finds_the_end_of_every_round():
    class Slow(exchange.Memory):
        def get(self, key, seconds):
            if threading.current_thread() is slow and key.endswith("done"):
                ahead.wait(0.2)  # the first could be rounds ahead by now
            return super().get(key, seconds)

    store, ahead, slow = Slow(), threading.Event(), None

    def rounds(index):
        group = exchange.Group(index, 2, store)
        for _ in range(3):
            with group.together():
                pass

    slow = threading.Thread(target=rounds, args=(1,), daemon=True)
    slow.start()
    rounds(0)
    slow.join(30)
    assert not slow.is_alive()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_one_that_fails_takes_the_others_along(failing, monkeypatch):
    monkeypatch.setattr(exchange, "_POLL", 0.01)

    def work(group):
        if group.index == failing:
            raise RuntimeError("out of memory")
        return gathered(group, b"")

    found = run(3, work)
    assert str(found.pop(failing)) == "out of memory"
    for error in found:
        assert isinstance(error, exchange.PeerFailed)
        assert str(error).startswith(f"Process {failing} of 3") and "out of memory" in str(error)


def test_one_that_works_on_learns_of_a_failure_at_its_next_look():
    failed = threading.Event()

    def work(group):
        if group.index:
            failed.set()
            raise RuntimeError("no such file")
        failed.wait()
        while True:
            group.check()

    found = run(2, work)
    assert isinstance(found[0], exchange.PeerFailed) and isinstance(found[1], RuntimeError)


@pytest.mark.parametrize("seeing", [0, 1, 2])
def test_all_drop_the_work_when_one_sees_that_they_are_preempted(seeing, monkeypatch):
    monkeypatch.setattr(exchange, "_POLL", 0.01)
    store = exchange.Memory()

    def work(group):
        if group.index != seeing:
            return gathered(group, b"done")
        store.set(exchange._NOTICE, b"now")
        group.check()

    assert [type(found) for found in run(3, work, store)] == [exchange.Preempted] * 3


def test_work_that_all_have_handed_in_is_finished(monkeypatch):
    store = exchange.Memory()

    def work(group):
        found = gathered(group, b"mine")
        if group.first:
            store.set(exchange._NOTICE, b"now")
        return found

    assert run(2, work, store) == [[b"mine"] * 2, None]
    with pytest.raises(exchange.Preempted):
        exchange.Group(0, 2, store).check()  # and the next work is not begun


def test_a_mistake_of_all_is_told_by_the_first():
    def work(group):
        raise ValueError("--split=vall")

    first, *others = run(3, work)
    assert isinstance(first, ValueError)
    assert all(isinstance(error, exchange.PeerFailed) for error in others)


def test_nobody_leaves_before_the_first_has_done_its_part():
    done = []

    def work(group):
        gathered(group, b"")
        if group.first:
            done.append("written")
        return lambda: list(done)

    assert all(look() == ["written"] for look in run(4, work))


def test_what_must_be_the_same_is_compared(monkeypatch):
    monkeypatch.setattr(exchange, "_POLL", 0.01)
    run(3, lambda group: group.agree("The step", "9"))
    first, *others = run(3, lambda group: group.agree("The step", str(group.index // 2)))
    assert str(first) == (
        "The step must be the same in every process: process 2 has 1, and process 0 0."
    )
    assert all(isinstance(error, exchange.PeerFailed) for error in others)


def test_several_evaluate_as_one_to_the_bit(make_detect, folder):  # noqa: F811
    config = coco_config(folder, **{"eval.batch_size": 1})
    config.data.buckets = ((192, 128), (128, 192), (192, 192))

    detect = make_detect(sources.open_source(config.data, "val"), config)
    (folder / "images/3.png").write_bytes(b"no image")

    def evaluate(group=None):
        source = sources.open_source(config.data, "val")
        return inference.evaluate_source(detect, source, config, progress=False, group=group)

    whole = evaluate()
    assert whole.skipped == {"image file is damaged or of an unknown format": 1}
    for count in (3, 7):  # of 5 batches
        first, *others = run(count, evaluate)
        assert others == [None] * (count - 1)
        assert json.dumps(first.results) == json.dumps(whole.results)
        assert first.to_dict() == whole.to_dict() | {"seconds": first.seconds}


def test_other_images_in_one_process_are_told_before_anything_is_detected(monkeypatch):
    monkeypatch.setattr(exchange, "_POLL", 0.01)

    def evaluate(group):
        config = shapes_config()
        config.data.shapes.val = 7 - group.index
        source = sources.open_source(config.data, "val")
        return inference.evaluate_source(pytest.fail, source, config, progress=False, group=group)

    first, other = run(2, evaluate)
    assert isinstance(first, ValueError) and "process 1 has 6 in batches of 3" in str(first)
    assert isinstance(other, exchange.PeerFailed)


class Client:
    """Of `jax.distributed`, with a key that is there from the third question on."""

    asked = 0

    def key_value_try_get_bytes(self, key):
        self.asked += 1
        if key == "broken":
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: the connection is closed")
        if key == "never" or self.asked < 3:
            raise jax.errors.JaxRuntimeError(f"NOT_FOUND: {key}")
        return b"value"


def test_the_store_of_a_run_is_asked_without_a_request_that_stays_in_it():
    store = exchange._Distributed(Client())
    assert store.get("key", 0) is None
    assert store.get("key", 30) == b"value"
    assert store.get("key", 0) == b"value"  # however long the way is
    assert store.get("never", 0.01) is None
    with pytest.raises(jax.errors.JaxRuntimeError, match="UNAVAILABLE"):
        store.get("broken", 1)
