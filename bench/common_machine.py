"""What every benchmark needs of the machine: small files, the drive under a file with its read-ahead, and a
description of processor, memory and program. Linux only."""

import contextlib
import os
import platform
import subprocess

SECTOR_BYTES = 512  # the unit of /sys/block/DEV/stat, whatever the drive's own sector is
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


# ---- the drive


def mounts():
    """Of every mount: major:minor, the folder inside the file system, mount point, type, source, options."""
    for line in read_text("/proc/self/mountinfo", "").splitlines():
        left, right = line.split(" - ", 1)
        fields, (kind, source, options) = left.split(), right.split(" ", 2)
        point = fields[4].replace("\\040", " ")
        yield {"device": fields[2], "point": point, "type": kind, "source": source,
               "options": options.split(",")}


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


def available_bytes():
    """Memory that can be had without swapping, page cache included."""
    for line in read_text("/proc/meminfo", "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return memory_bytes()


def governor():
    """What sets the clock, where the kernel may; a virtual machine often has no say."""
    return read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "not the kernel's")


def busy_s():
    """Time that all processors have spent on anything since the start, and what a hypervisor took of them."""
    fields = [int(word) for word in read_text("/proc/stat", "cpu 0 0 0 0 0 0 0 0").split("\n")[0].split()[1:9]]
    user, nice, system, _, _, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def load_average():
    return f"{os.getloadavg()[0]:.2f} in the last minute"


def commit_of(root):
    version = output_of(["git", "-C", root, "rev-parse", "--short=12", "HEAD"]) or "unknown"
    if output_of(["git", "-C", root, "status", "--porcelain"]):
        version += ", with changes"
    return version
