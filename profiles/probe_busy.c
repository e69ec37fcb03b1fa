// What other programs took of the processors while the probe ran: then its figures are too low, and nothing
// in them says so.
#include "profiles/probe_internal.h"

#include "base/clock.h"

#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

// More than the threads of the kernel take that write the file to be measured.
#define BUSY_PROCESSORS 0.3

// Seconds that all processors have spent on anything since the system started, and those that a hypervisor
// took of them. 0 where the system does not tell.
static double busy_seconds(void)
{
    unsigned long long user, nice, system, idle, iowait, irq, softirq, steal;
    FILE *file = fopen("/proc/stat", "re");
    if (!file)
        return 0;
    const int n = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle,
                         &iowait, &irq, &softirq, &steal);
    fclose(file);
    return n == 8 ? (double)(user + nice + system + irq + softirq + steal) / (double)sysconf(_SC_CLK_TCK) : 0;
}

static double seconds_of(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec * 1e-6;
}

static double own_seconds(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
}

double probe_others_seconds(void)
{
    const double busy_s = busy_seconds();
    return busy_s > 0 ? busy_s - own_seconds() : 0;
}

void probe_note_others(struct probe *probe, double before_s)
{
    const double after_s = probe_others_seconds();
    if (before_s <= 0 || after_s <= 0)
        return;
    const double processors = (after_s - before_s) / clock_seconds_since(probe->start_ns);
    if (processors > BUSY_PROCESSORS)
        probe_note(probe,
                   "something else kept %.1f processors busy meanwhile, so the figures are too low; "
                   "probe again when the machine is idle",
                   processors);
}
