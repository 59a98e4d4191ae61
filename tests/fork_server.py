"""Starts processes that have imported pretint and torch already: they are imported once, then forked.

Reads a JSON object a line: {"start": [words], "code": "", "env": {...}, "folder": "", "files": [in, out, error]} starts
``pretint WORDS``, or Python code with these arguments, and answers the process's number; {"wait": number} answers its
exit status, as subprocess does (a signal is negative).
"""

import json
import os
import signal
import sys
import traceback
from typing import Any


def run_child(question: dict[str, Any]) -> None:
    """Do in this process what is asked, and end it."""
    os.setsid()  # a group of its own, so that it can be killed with its workers
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that started the tests with & has it ignored
    flags = (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_APPEND] * 2)
    for number, (file, flag) in enumerate(zip(question["files"], flags, strict=True)):
        os.dup2(os.open(file, flag), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the other has read ahead
    os.environ.clear()
    os.environ.update(question["env"])
    if question["folder"]:
        os.chdir(question["folder"])
    words, code, status = question["start"], question["code"], 1
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
    import transfer.report  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            pid = os.fork()
            if pid == 0:
                run_child(asked)
            answer = pid
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        print(answer, flush=True)
