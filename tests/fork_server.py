"""Starts processes that have imported pretint and torch already: they are imported once, then forked.

Reads a JSON object a line: {"start": [words], "code": "", "env": {...}, "folder": "", "files": [in, out, error]} starts
``pretint WORDS``, or Python code with these arguments, and answers the process's number; {"wait": number} answers its
exit status, as subprocess does (a signal is negative). With "hold": [step, written] the process stops itself, as by
SIGSTOP, once it has written the first checkpoint at or after that step, or just before that checkpoint gets its name.
"""

import json
import os
import re
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any


def hold_at(step: int, written: bool) -> None:
    """Stop this process at a checkpoint, once: a test need not be fast enough to meet it there."""
    replace, is_held = os.replace, False

    def replace_and_hold(source: Any, target: Any, **options: Any) -> None:
        nonlocal is_held
        holds = not is_held and re.fullmatch(r"\d{8}\.pt", Path(target).name) and int(Path(target).stem) >= step
        is_held = is_held or bool(holds)
        if holds and not written:
            os.kill(os.getpid(), signal.SIGSTOP)
        replace(source, target, **options)
        if holds and written:
            os.kill(os.getpid(), signal.SIGSTOP)

    os.replace = replace_and_hold


def run_child(request: dict[str, Any]) -> None:
    """Do in this process what is requested, and end it."""
    os.setsid()  # a group of its own, so that it can be killed with its workers
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that started the tests with & has it ignored
    flags = (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_APPEND] * 2)
    for number, (file, flag) in enumerate(zip(request["files"], flags, strict=True)):
        os.dup2(os.open(file, flag), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the other has read ahead
    os.environ.clear()
    os.environ.update(request["env"])
    if request["folder"]:
        os.chdir(request["folder"])
    if request["hold"]:
        hold_at(*request["hold"])
    words, code, status = request["start"], request["code"], 1
    sys.argv = ["-c" if code else "pretint", *words]
    try:
        if code:
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
            status = 0
        else:
            status = pretint.cli.main(words)
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    import pretint.cli

    for slow in (
        "timm",
        "torch._dynamo",
        "pretext.pretrain",
        "transfer.finetune",
        "transfer.probes",
        "transfer.report",
    ):
        import_module(slow)

    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                run_child(request)
            answer = pid
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        print(answer, flush=True)
