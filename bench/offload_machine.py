"""What the measurements of bench/offload need of the machine: memory control groups with a limit, the drive
under a file with its counters, its read-ahead and its bandwidth, and a description of the machine. Linux only;
limits, read-ahead and an empty page cache need root."""

import contextlib
import json
import mmap
import os
import platform
import random
import shutil
import signal
import subprocess
import threading
import time

SECTOR_BYTES = 512  # the unit of /sys/block/DEV/stat, whatever the drive's own sector is
DIRECT_ALIGN_BYTES = 4096
MIB = 1 << 20


class Trouble(Exception):
    """What stands in the way of measuring, in words for the one who started it."""


def read_text(path, otherwise=None):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return otherwise


def write_text(path, text):
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(text))
    except OSError as error:
        raise Trouble(f"cannot write {text} to {path}: {error.strerror}") from error


def output_of(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# ---- mounts and control groups


def mounts():
    """Of every mount: major:minor, the folder inside the file system, mount point, type, source, options."""
    for line in read_text("/proc/self/mountinfo", "").splitlines():
        left, right = line.split(" - ", 1)
        fields, (kind, source, options) = left.split(), right.split(" ", 2)
        point = fields[4].replace("\\040", " ")
        yield {"device": fields[2], "point": point, "type": kind, "source": source,
               "options": options.split(",")}


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


def drop_page_cache():
    os.sync()
    write_text("/proc/sys/vm/drop_caches", 3)


# ---- the drive


class Drive:
    """The block device under a file, whole, not a partition of it."""

    def __init__(self, path, name=None):
        self.name = name or self._find(path)
        self.folder = f"/sys/block/{self.name}"
        if not os.path.exists(self.folder + "/stat"):
            raise Trouble(f"no block device {self.name} in /sys/block; name the model's drive with --drive")

    @staticmethod
    def _find(path):
        number = os.stat(path).st_dev
        device = f"{os.major(number)}:{os.minor(number)}"
        if not os.path.exists("/sys/dev/block/" + device):  # btrfs and the like number their own devices
            sources = [m["source"] for m in mounts() if m["device"] == device and m["source"].startswith("/dev/")]
            if not sources:
                raise Trouble(f"cannot tell which drive {path} lies on; name it with --drive, such as nvme0n1")
            number = os.stat(sources[0]).st_rdev
            device = f"{os.major(number)}:{os.minor(number)}"
        folder = os.path.realpath("/sys/dev/block/" + device)
        if os.path.exists(folder + "/partition"):
            folder = os.path.dirname(folder)
        return os.path.basename(folder)

    def counters(self):
        fields = read_text(self.folder + "/stat").split()
        return {"read_bytes": int(fields[2]) * SECTOR_BYTES, "written_bytes": int(fields[6]) * SECTOR_BYTES}

    def describe(self):
        model = read_text(self.folder + "/device/model") or "no model name"
        size_bytes = int(read_text(self.folder + "/size", "0")) * SECTOR_BYTES
        return f"{self.name}, {model}, {size_bytes / 1e9:.0f} GB"

    @contextlib.contextmanager
    def read_ahead(self, kb):
        """Sets the read-ahead of the page cache, and back at the end. An mmap reader lives by it."""
        path = self.folder + "/queue/read_ahead_kb"
        before = read_text(path)
        try:
            write_text(path, kb)
            yield before
        finally:
            if before is not None:
                write_text(path, before)


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


# ---- what the machine is


def cpu_flags():
    for line in read_text("/proc/cpuinfo", "").splitlines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()


def cpu_name():
    for line in read_text("/proc/cpuinfo", "").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def physical_cores():
    """Cores that this process may use; two threads of a core count once."""
    allowed = os.sched_getaffinity(0)
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return len({read_text(siblings.format(cpu), str(cpu)) for cpu in allowed})


def memory_bytes():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def simd_names():
    wanted = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_tile")
    return " ".join(name for name in wanted if name in cpu_flags()) or "no AVX2"
