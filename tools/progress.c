// The bar. It appears only after 300 ms, so that short steps do not flicker, and is redrawn ten times a
// second.
#include "tools/progress.h"

#include "tools/interrupt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BAR_WIDTH = 30 };
static const uint64_t delay_ns = 300000000, interval_ns = 100000000;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void progress_begin(struct progress *progress)
{
    const char *terminal = getenv("TERM");
    *progress =
        (struct progress){.enabled = isatty(STDERR_FILENO) && terminal && strcmp(terminal, "dumb") != 0,
                          .started_ns = now_ns()};
}

static void draw(const char *what, double share)
{
    int filled = (int)(share * BAR_WIDTH);
    char bar[BAR_WIDTH + 1];
    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[BAR_WIDTH] = 0;
    fprintf(stderr, "\r\033[K%s [%s] %3.0f%%", what, bar, share * 100);
    fflush(stderr);
}

bool progress_show(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct progress *progress = user;
    if (interrupt_pending())
        return false;
    if (!progress->enabled || total == 0)
        return true;
    uint64_t now = now_ns();
    if (now - progress->started_ns < delay_ns || now - progress->drawn_ns < interval_ns)
        return true;
    progress->drawn_ns = now;
    progress->drawn = true;
    draw(what ? what : "working", done < total ? (double)done / (double)total : 1.0);
    return true;
}

void progress_end(struct progress *progress)
{
    if (progress->drawn)
        fputs("\r\033[K", stderr);
    progress->drawn = false;
}
