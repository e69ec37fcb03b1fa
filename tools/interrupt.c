// The flag and the pipe are the globals of the program: a signal handler has no other way to tell anyone. The
// pipe is there because the signal may come just before a read begins, or on a thread that only computes;
// polling it beside the file misses neither.
#include "tools/interrupt.h"

#include "tools/message.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// timeout(1) sends its signal to the process and then to its group: within this time it is the same one.
static const uint64_t repeat_ns = 100000000;

// Atomic, not sig_atomic_t: the two signals may be handled on two threads at the same time.
static atomic_int caught; // SIGINT, SIGTERM or 0
static _Atomic uint64_t caught_ns;
static atomic_bool kills_on_second;
static int wake_read = -1, wake_write = -1;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool is_second(int before)
{
    return before && (kills_on_second || before == SIGTERM) && now_ns() - caught_ns > repeat_ns;
}

static void on_signal(int number)
{
    const int saved = errno, before = caught;
    if (is_second(before)) { // blocked while it is handled, so it ends the program on return
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    if (!before)
        caught_ns = now_ns();
    if (before != SIGTERM)
        caught = number;
    if (write(wake_write, "", 1) < 0) {
        // full: then whoever polls wakes up all the same
    }
    errno = saved;
}

static void open_pipe(void)
{
    int ends[2];
    if (wake_read >= 0 || pipe(ends) != 0)
        return;
    for (int i = 0; i < 2; i++) {
        fcntl(ends[i], F_SETFD, FD_CLOEXEC);
        fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    wake_read = ends[0];
    wake_write = ends[1];
}

// No SA_RESTART: a read that is under way must return, or Ctrl-C would wait for the next line.
void interrupt_watch(bool second_kills)
{
    open_pipe();
    kills_on_second = second_kills;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool interrupt_pending(void)
{
    return caught != 0;
}

bool interrupt_is_final(void)
{
    return caught == SIGTERM;
}

int interrupt_exit_code(void)
{
    return interrupt_is_final() ? EXIT_TERMINATED : EXIT_INTERRUPTED;
}

bool interrupt_wait_readable(int fd)
{
    struct pollfd files[2] = {{.fd = fd, .events = POLLIN}, {.fd = wake_read, .events = POLLIN}};
    while (!interrupt_pending()) {
        int ready = poll(files, 2, -1);
        if (ready < 0 ? errno != EINTR : files[0].revents != 0)
            return !interrupt_pending();
    }
    return false;
}

void interrupt_clear(void)
{
    char bytes[16];
    int ctrl_c = SIGINT;
    atomic_compare_exchange_strong(&caught, &ctrl_c, 0);
    while (read(wake_read, bytes, sizeof bytes) > 0)
        continue;
}
