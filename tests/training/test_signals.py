"""Ctrl-C and SIGTERM between two steps."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from normbench.training.signals import stop_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_an_answer_and_not_an_exception(number: signal.Signals) -> None:
    with stop_signals() as should_stop:
        assert should_stop() is False
        os.kill(os.getpid(), number)
        assert should_stop() is True
        assert should_stop() is True


def test_a_second_ctrl_c_interrupts_as_it_did_before() -> None:
    with stop_signals() as should_stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_handlers_are_restored_after_a_signal_or_an_exception(number: signal.Signals) -> None:
    before = handlers()
    with stop_signals():
        assert handlers() != before
        os.kill(os.getpid(), number)
    assert handlers() == before
    with pytest.raises(ZeroDivisionError), stop_signals():
        raise ZeroDivisionError
    assert handlers() == before


def test_in_another_thread_nobody_is_heard_and_nothing_changes() -> None:
    answers: list[bool] = []
    before = handlers()

    def ask() -> None:
        with stop_signals() as should_stop:
            answers.append(handlers() == before and not should_stop())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers == [True]
