"""What is said of a program that ended badly, and signals on their way to one."""

import signal
import types

import numpy as np
import pytest

from jaxseg.reproduce import process
from jaxseg.training import finite


class Ears:
    """A child that remembers what it was sent."""

    def __init__(self):
        self.heard = []

    def send(self, number):
        self.heard.append(number)


class Unlucky(process.Stop):
    """A signal comes the very moment that a child is known."""

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "_child" and value is not None:
            signal.raise_signal(signal.SIGINT)


def test_a_signal_reaches_the_child_once_whenever_it_comes():
    with process.Stop() as stop:
        signal.raise_signal(signal.SIGTERM)
        with stop.passing_to(before := Ears()):
            pass
    with process.Stop() as stop, stop.passing_to(within := Ears()):
        signal.raise_signal(signal.SIGTERM)
    with Unlucky() as stop, stop.passing_to(between := Ears()):
        pass
    assert before.heard == within.heard == [signal.SIGTERM]
    assert between.heard == [signal.SIGINT] and stop.signal == signal.SIGINT


def test_a_third_signal_kills():
    with process.Stop() as stop, stop.passing_to(child := Ears()):
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
    assert child.heard == [signal.SIGINT, signal.SIGINT, signal.SIGKILL]


def test_a_second_signal_without_a_program_ends_it_all():
    with process.Stop(), pytest.raises(SystemExit) as caught:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert caught.value.code == 128 + signal.SIGTERM


def divergence():
    """What train.py says of a loss that is not finite."""
    guard = finite.Guard()
    scalars = {"loss": np.float32("nan"), "lr": np.float32(1e30), "finite": np.bool_(False)}
    guard.add(7, np.arange(3), scalars)
    optim = types.SimpleNamespace(lr=1e30, warmup_steps=500, clip_norm=0.0)
    with pytest.raises(FloatingPointError) as caught:
        guard.check(optim, saved=[])
    return str(caught.value)


def test_a_divergence_is_told_from_its_beginning():
    text = divergence()
    assert text.count("\n") > 5  # otherwise this says nothing
    printed = f"Saved.\nTraceback (most recent call last):\n  x\nE: 1\ntrain.py: {text}\nBye.\n"
    words = process.failure(2, printed)
    assert words.startswith(
        "train.py: The loss or its gradient is not finite at step 7 (loss nan)."
    )
    assert "Learning rate: 1e+30. The step changed no parameter" in words
    assert "\n" not in words and len(words) <= process.LONGEST_ERROR


def test_a_mistake_comes_before_what_went_wrong_at_the_exit():
    late = (
        "Exception ignored in: <f>\nTraceback (most recent call last):\n  File\nOSError: closed\n"
    )
    words = process.failure(2, f"eval.py: no split x.\n{late}")
    assert words.startswith("eval.py: no split x. Exception ignored")
