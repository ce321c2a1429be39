"""Tries to look into the processes whose ids are its arguments, and into a child of its own, in the ways that a process
of the same user may: an attach as by a debugger, memory, environment. Prints what came of it, as JSON."""

import ctypes
import json
import os
import subprocess
import sys

PTRACE_SEIZE = 0x4206
libc = ctypes.CDLL(None, use_errno=True)


def attach(pid):
    if libc.ptrace(PTRACE_SEIZE, pid, None, None) == 0:
        return "let in"
    return os.strerror(ctypes.get_errno())


def read(pid, name):
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            if name == "environ":
                file.read(1)
        return "let in"
    except OSError as error:
        return os.strerror(error.errno)


def look(pid):
    return {"memory": read(pid, "mem"), "environment": read(pid, "environ"), "attach": attach(pid)}


child = subprocess.Popen(["sleep", "60"])
found = {pid: look(int(pid)) for pid in sys.argv[1:]}
found["child"] = look(child.pid)
child.kill()
print(json.dumps(found))
