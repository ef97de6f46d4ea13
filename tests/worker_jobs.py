"""Functions that worker processes call in tests; they live in a module of their own so that workers can import them."""

import os
import signal
import time

from speechllm.audio_levels import measure_packed


def work(job):
    """Do what a job says: ``square 3``, ``sleep 0.1``, ``reverse TEXT``, ``crash``, ``once FILE``, ``exit 3``, …."""
    what, *rest = job.split(" ", 1)
    if what == "square":
        return int(rest[0]) ** 2
    if what == "sleep":
        time.sleep(float(rest[0]))
        return rest[0]
    if what == "reverse":
        return rest[0][::-1]
    if what == "pid":
        return os.getpid()
    if what == "exit":
        os._exit(int(rest[0]))
    if what == "raise":
        raise ZeroDivisionError("by design")
    if what == "once" and os.path.exists(rest[0]):
        return "survived"
    if what == "once":
        open(rest[0], "w").close()
    return os.kill(os.getpid(), signal.SIGSEGV)


def measure_or_crash(job):
    """Measure a file as the doctor does, but crash at a stretch of 0.25 s, as a decoder may."""
    if any(stretch.duration_s == 0.25 for stretch in job.stretches):
        os.kill(os.getpid(), signal.SIGSEGV)
    return measure_packed(job)
