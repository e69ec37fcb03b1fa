"""What the measurements of bench/offload need of the machine besides common_machine: memory control groups with a
limit, an empty page cache and the drive's bandwidth. Linux only; limits and an empty page cache need root."""

import contextlib
import glob
import json
import mmap
import os
import random
import shutil
import signal
import threading
import time

from common_machine import Trouble, mounts, output_of, read_text, write_text

DIRECT_ALIGN_BYTES = 4096


# ---- control groups


def memory_hierarchy():
    """(version, folder in which groups can be made) of the memory controller."""
    own = {}
    for line in read_text("/proc/self/cgroup", "").splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    for mount in mounts():
        if mount["type"] == "cgroup" and "memory" in mount["options"]:
            path = next((p for names, p in own.items() if "memory" in names.split(",")), "/")
            folder = mount["point"] + path.rstrip("/")
            return 1, folder if os.path.isdir(folder) else mount["point"]
    for mount in mounts():
        if mount["type"] == "cgroup2":
            folder = mount["point"] + own.get("", "/").rstrip("/")
            # A group with processes of its own gives no controllers to groups in it, so ours goes beside it.
            while len(folder) >= len(mount["point"]):
                if "memory" in read_text(folder + "/cgroup.subtree_control", "").split():
                    return 2, folder
                folder = os.path.dirname(folder)
    raise Trouble("no memory controller of control groups (v1 or v2) that groups can be made in; "
                  "with v2, 'memory' must be in the cgroup.subtree_control of a group above this process")


class MemoryGroup:
    """A fresh memory control group; a limit of None only counts. Removed, with what still runs in it, at the
    end of a `with`."""

    serial = 0

    def __init__(self, limit_bytes):
        MemoryGroup.serial += 1
        self.version, parent = memory_hierarchy()
        self.path = f"{parent}/lode-bench-{os.getpid()}-{MemoryGroup.serial}"
        self.limit_bytes = limit_bytes

    def __enter__(self):
        try:
            os.mkdir(self.path)
        except OSError as error:
            raise Trouble(f"cannot make the control group {self.path}: {error.strerror}") from error
        try:
            self._limit()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_):
        self._remove()

    def _limit(self):
        if self.limit_bytes is None:
            return
        if self.version == 1:
            write_text(self.path + "/memory.limit_in_bytes", self.limit_bytes)
            memory_and_swap = self.path + "/memory.memsw.limit_in_bytes"
            if os.path.exists(memory_and_swap):
                write_text(memory_and_swap, self.limit_bytes)
        else:
            write_text(self.path + "/memory.max", self.limit_bytes)
            if os.path.exists(self.path + "/memory.swap.max"):
                write_text(self.path + "/memory.swap.max", 0)

    def enter(self):
        """Called in a child between fork and exec."""
        with open(self.path + "/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(os.getpid()))

    def swap_is_limited(self):
        name = "/memory.memsw.limit_in_bytes" if self.version == 1 else "/memory.swap.max"
        return os.path.exists(self.path + name)

    def figures(self):
        if self.version == 1:
            peak = read_text(self.path + "/memory.max_usage_in_bytes")
            # Memory and swap are charged first, so with both limits it is their counter that counts.
            at_limit = max(int(read_text(f"{self.path}/{name}failcnt", "0")) for name in ("memory.", "memory.memsw."))
            events = read_text(self.path + "/memory.oom_control", "")
        else:
            peak = read_text(self.path + "/memory.peak")  # since Linux 5.19
            events = read_text(self.path + "/memory.events", "")
            at_limit = dict(line.split() for line in events.splitlines()).get("max")
        kills = dict(line.split() for line in events.splitlines()).get("oom_kill")
        return {"group_peak_bytes": int(peak) if peak else None,
                "group_limit_hits": None if at_limit is None else int(at_limit),
                "oom_kills": int(kills) if kills else 0}

    def _remove(self):
        for _ in range(200):  # a killed process may take seconds to give its memory back
            for pid in read_text(self.path + "/cgroup.procs", "").split():
                with contextlib.suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)
            if self.version == 1:  # else its page cache keeps the dead group in the kernel
                with contextlib.suppress(Trouble):
                    write_text(self.path + "/memory.force_empty", 0)
            try:
                os.rmdir(self.path)
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.05)


def drive_temperature(name):
    """Degrees Celsius that a drive tells by hwmon, or None."""
    for place in ("hwmon*/temp1_input", "hwmon/hwmon*/temp1_input", "device/hwmon/hwmon*/temp1_input"):
        for path in glob.glob(f"/sys/block/{name}/device/{place}"):
            with contextlib.suppress(TypeError, ValueError):
                return int(read_text(path)) / 1000
    return None


def drop_page_cache():
    os.sync()
    write_text("/proc/sys/vm/drop_caches", 3)


# ---- the drive's bandwidth


def fio_gbps(path, block_bytes, seconds):
    """(GB/s, how) of direct random reads of a file by fio, or None when fio cannot."""
    if not shutil.which("fio"):
        return None
    for engine in ("io_uring", "libaio"):
        command = ["fio", "--name=offload", "--filename=" + path.replace(":", "\\:"), "--readonly", "--direct=1",
                   "--rw=randread", f"--bs={block_bytes}", f"--ioengine={engine}", "--iodepth=32",
                   "--time_based", f"--runtime={seconds}", "--allow_file_create=0", "--norandommap",
                   "--output-format=json"]
        text = output_of(command)
        with contextlib.suppress(ValueError, KeyError, IndexError, TypeError):
            bandwidth = json.loads(text[text.index("{"):])["jobs"][0]["read"]["bw_bytes"] if text else 0
            if bandwidth > 0:
                return bandwidth / 1e9, f"fio, {engine}, queue depth 32"
    return None


def threads_gbps(path, block_bytes, seconds, n_threads=16):
    """(GB/s, how) of direct random reads of a file by threads of our own."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        raise Trouble(f"cannot read {path} with O_DIRECT: {error.strerror}; tell the drive's bandwidth with "
                      "--drive-gbps") from error
    blocks = max(1, (os.fstat(fd).st_size - block_bytes) // DIRECT_ALIGN_BYTES)
    done_bytes = [0] * n_threads
    stop = time.monotonic() + seconds

    def read(thread):
        with mmap.mmap(-1, block_bytes) as buffer:  # aligned to a page, as O_DIRECT asks for
            chance = random.Random(thread)
            while time.monotonic() < stop:
                got = os.preadv(fd, [buffer], chance.randrange(blocks) * DIRECT_ALIGN_BYTES)
                done_bytes[thread] += got

    started = time.monotonic()
    readers = [threading.Thread(target=read, args=(i,), daemon=True) for i in range(n_threads)]
    try:
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    finally:
        stop = 0.0
        for reader in readers:
            if reader.ident:
                reader.join()
        os.close(fd)
    if not sum(done_bytes):
        raise Trouble(f"direct reads of {path} failed; tell the drive's bandwidth with --drive-gbps")
    return sum(done_bytes) / (time.monotonic() - started) / 1e9, f"O_DIRECT, {n_threads} threads"


def measure_drive(path, sizes_bytes, seconds):
    """Bandwidth at each size: [{block_bytes, gbps, how}]."""
    results = []
    for size_bytes in sizes_bytes:
        block_bytes = -(-size_bytes // DIRECT_ALIGN_BYTES) * DIRECT_ALIGN_BYTES
        if block_bytes > os.path.getsize(path):
            continue
        gbps, how = fio_gbps(path, block_bytes, seconds) or threads_gbps(path, block_bytes, seconds)
        results.append({"block_bytes": block_bytes, "gbps": gbps, "how": how})
    return results
