"""Signals that ask to stop: none is lost, whoever had them blocked."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pretext.engine.run import newest_checkpoint
from pretext.engine.signals import ENDINGS, WARNINGS, ExitStatus, catch_signals, exit_with


def test_what_came_while_it_was_blocked_is_heard() -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
    handlers = {number: signal.getsignal(number) for number in WARNINGS}
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)  # to this thread: others don't have it blocked
        with catch_signals(signal.SIGINT) as interrupted:
            assert not interrupted(), "it waits for who listens to it"
            with catch_signals(*WARNINGS) as warned:
                assert warned() == ExitStatus.PREEMPTED
                os.kill(os.getpid(), signal.SIGTERM)
                assert warned() == ExitStatus.TERMINATED
            assert not interrupted()
            os.kill(os.getpid(), signal.SIGUSR2)  # between two who listen, to whichever thread
        with catch_signals() as asked:
            assert asked() == ExitStatus.PREEMPTED
        with catch_signals() as asked:
            assert not asked(), "it was heard"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDINGS)
def test_the_ending_is_the_exit_code(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        exit_with(ENDINGS[number], "some of it is kept")
    if number == signal.SIGINT:
        assert caught.type is KeyboardInterrupt
    else:
        assert caught.value.code == ENDINGS[number]  # type: ignore[union-attr]
    assert "some of it is kept" in capsys.readouterr().err


def warned_from_the_first_moment() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    os.kill(os.getpid(), signal.SIGUSR2)


@pytest.mark.slow
def test_a_run_started_with_a_warning_pending_stops_after_its_first_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--crop.size", "16", "--objective.stride", "4", "--objective.prior_images", "20", "--data.holdout", "8"]
    words += ["--data.source", "bundled"]
    words += ["--training.steps", "200", "--training.batch_size", "8", "--training.warmup", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "pretint", "pretrain", run, *words, "--machine.workers", "1"],
        preexec_fn=warned_from_the_first_moment,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitStatus.PREEMPTED, done.stderr
    assert newest_checkpoint(run) == run / "checkpoints" / "00000001.pt"
