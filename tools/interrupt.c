// The flag and the pipe are the globals of the program: a signal handler has no other way to tell anyone. The
// pipe is there because the signal may come just before a read begins, or on a thread that only computes;
// polling it beside the file misses neither.
#include "tools/interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;
static int wake_read = -1, wake_write = -1;

static void on_interrupt(int number)
{
    (void)number;
    int saved = errno;
    interrupted = 1;
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
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    sigemptyset(&action.sa_mask);
    action.sa_flags = second_kills ? (int)SA_RESETHAND : 0;
    sigaction(SIGINT, &action, NULL);
}

bool interrupt_pending(void)
{
    return interrupted != 0;
}

bool interrupt_wait_readable(int fd)
{
    struct pollfd files[2] = {{.fd = fd, .events = POLLIN}, {.fd = wake_read, .events = POLLIN}};
    while (!interrupted) {
        int ready = poll(files, 2, -1);
        if (ready < 0 ? errno != EINTR : files[0].revents != 0)
            return !interrupted;
    }
    return false;
}

void interrupt_clear(void)
{
    char bytes[16];
    interrupted = 0;
    while (read(wake_read, bytes, sizeof bytes) > 0)
        continue;
}
