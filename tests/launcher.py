"""Starts pretint commands as real processes without waiting for torch each time: it is imported once, then forked.

Reads a JSON object a line: {"start": [words], "env": {...}, "log": file} starts one and answers its pid;
{"wait": pid} answers its exit status, as subprocess does (a signal is negative).
"""

import json
import os
import sys
import traceback

import pretint.cli
import transfer.report  # noqa: F401


def child(words: list[str], env: dict[str, str], log: str) -> None:
    os.setsid()  # a group of its own, so that it can be killed with its workers
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(env)
    code = 1
    try:
        code = pretint.cli.main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


for line in sys.stdin:
    asked = json.loads(line)
    if "start" in asked:
        pid = os.fork()
        if pid == 0:
            child(asked["start"], asked["env"], asked["log"])
        answer = pid
    else:
        answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
    print(answer, flush=True)
