// Which thread belongs on which core. Decoding is bound by memory and threads take the next task when they
// have done one, so slower cores help and do not hold up the others: all are used, and order matters only
// where fewer threads are asked for.
#include "backends/cpu/cpu_topology.h"

#include "backends/cpu/memory.h"

#include <stdio.h>
#include <string.h>

// Allowed cores have a hardware thread that cpu_set_t can name, so there are no more of them than of these.
struct shares {
    uint16_t of_core[CPU_SETSIZE]; // threads that are put on it
};

static bool deal(struct shares *out, const struct cpu_topology *topology, uint32_t threads)
{
    *out = (struct shares){0};
    if (threads > topology->n_hardware_threads_allowed)
        return false;
    for (uint32_t round = 0; threads > 0; round++)
        for (uint32_t c = 0; c < topology->n_cores_allowed && threads > 0; c++)
            if (round < topology->cores[c].n_allowed) {
                out->of_core[c]++;
                threads--;
            }
    return true;
}

// Every `n_shares`-th allowed hardware thread of the core, from the one with the number `share`.
static void take_share(cpu_set_t *out, const struct cpu_core *core, uint32_t share, uint32_t n_shares)
{
    CPU_ZERO(out);
    uint32_t n = 0;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE && n < core->n_allowed; cpu++)
        if (CPU_ISSET(cpu, &core->allowed) && n++ % n_shares == share)
            CPU_SET(cpu, out);
}

bool cpu_topology_place(cpu_set_t *out, const struct cpu_topology *topology, uint32_t threads)
{
    struct shares shares;
    if (!deal(&shares, topology, threads))
        return false;
    uint32_t thread = 0;
    for (uint32_t round = 0; thread < threads; round++)
        for (uint32_t c = 0; c < topology->n_cores_allowed; c++)
            if (round < shares.of_core[c])
                take_share(&out[thread++], &topology->cores[c], round, shares.of_core[c]);
    return true;
}

bool cpu_topology_places(cpu_set_t *out, uint32_t threads)
{
    struct cpu_topology topology;
    if (cpu_topology_open(&topology, NULL) != LODE_OK)
        return false;
    bool placed = cpu_topology_place(out, &topology, threads);
    cpu_topology_close(&topology);
    return placed;
}

// The first round of the deal has visited the cores in their order.
void cpu_topology_nodes(struct cpu_memory_nodes *out, const struct cpu_topology *topology, uint32_t threads)
{
    *out = (struct cpu_memory_nodes){0};
    for (uint32_t c = 0; c < topology->n_cores_allowed && c < threads; c++)
        cpu_memory_add_node(out, topology->nodes[topology->cores[c].node].os_index);
}

void cpu_topology_mask_text(char *out, size_t capacity, const cpu_set_t *mask)
{
    size_t used = 0;
    out[0] = 0;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, mask))
            continue;
        unsigned last = cpu;
        while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, mask))
            last++;
        char range[32];
        int length = last > cpu ? snprintf(range, sizeof range, "%s%u-%u", used ? "," : "", cpu, last)
                                : snprintf(range, sizeof range, "%s%u", used ? "," : "", cpu);
        if (used + (size_t)length + sizeof "..." > capacity) {
            snprintf(out + used, capacity - used, "...");
            return;
        }
        memcpy(out + used, range, (size_t)length + 1);
        used += (size_t)length;
        cpu = last;
    }
}
