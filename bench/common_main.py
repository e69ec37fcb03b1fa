"""What the benchmarks' programs have in common: numbers on the command line, the first lines of provenance, files
of results, and an end that cleans up whatever ends them."""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shlex
import signal
import sys

import common_machine as machine
from common_machine import Trouble

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def positive(kind):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
        return value
    return parse


def counts(text):
    """256,4K into [256, 4096]."""
    values = []
    for word in text.split(","):
        number = word.strip().upper()
        scale = 1024 if number.endswith("K") else 1
        if not number.rstrip("K").isdigit():
            raise argparse.ArgumentTypeError(f"{text!r} is no list of counts such as 512,4K")
        values.append(int(number.rstrip("K")) * scale)
    return sorted(set(values))


def say(text):
    print(text, file=sys.stderr, flush=True)


def first_facts(root, program, n_threads):
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(sys.argv),
        "commit": machine.commit_of(root),
        "program": program,
        "CPU": f"{machine.cpu_name()}, {n_threads} threads on {machine.physical_cores()} cores, "
               f"{machine.simd_names()}",
        "kernel": platform.release(),
        "load": machine.load_average(),
    }


def write_json(path, content):
    """In place of the old file only when it is whole; a benchmark of hours may be interrupted at any time."""
    if not path:
        return
    try:
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
        os.replace(path + ".part", path)
    except OSError as error:
        raise Trouble(f"cannot write {path}: {error.strerror}") from error


def end_by_signal(number, _):
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # a second one must not cut the cleaning up short
    raise SystemExit(128 + number)


def run_main(name, benchmark):
    """Ends the process with what benchmark(stack) returns, 2 for Trouble."""
    for number in SIGNALS:
        signal.signal(number, end_by_signal)
    try:
        with contextlib.ExitStack() as stack:
            sys.exit(benchmark(stack))
    except Trouble as trouble:
        say(f"{name}: {trouble}")
        sys.exit(2)
