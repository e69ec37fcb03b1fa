// Writes a profile of this machine and of the drive of a model, with the figures of a machine in a line of
// text: for scripts that plan runs and have no ten seconds to measure. GPUs that are here get figures too,
// for without them it would not be this machine.
#include "core/lode.h"
#include "profiles/probe.h"

#include <stdio.h>
#include <string.h>

static struct machine_profile profile, here; // large
static struct lode_cpu cpu;

static void sign(void)
{
    profile.origin = PROFILE_MEASURED;
    strcpy(profile.made, "2026-01-31T12:34:56Z");
    strcpy(profile.made_by, "a test");
    strcpy(profile.mode, "full");
    memcpy(profile.cpu.name, here.cpu.name, sizeof profile.cpu.name);
    memcpy(profile.cpu.isa, here.cpu.isa, sizeof profile.cpu.isa);
    profile.cpu.memory_bytes = here.cpu.memory_bytes;
    profile.cpu.cores = here.cpu.cores;
    profile.cpu.threads = cpu.n_threads;
    memcpy(profile.drives[0].name, here.drives[0].name, sizeof profile.drives[0].name);
    memcpy(profile.drives[0].device, here.drives[0].device, sizeof profile.drives[0].device);
    for (uint32_t g = 0; g < profile.n_gpus && g < here.n_gpus; g++) {
        memcpy(profile.gpus[g].name, here.gpus[g].name, sizeof profile.gpus[g].name);
        memcpy(profile.gpus[g].backend, here.gpus[g].backend, sizeof profile.gpus[g].backend);
        profile.gpus[g].memory_bytes = here.gpus[g].memory_bytes;
    }
    probe_fingerprint(profile.fingerprint, &profile);
}

static const char *with_gpus(const char *words)
{
    static char text[512];
    int len = snprintf(text, sizeof text, "%s", words);
    for (uint32_t g = 0; g < here.n_gpus; g++)
        len += snprintf(text + len, sizeof text - (size_t)len, ",gpu=%lluM",
                        (unsigned long long)(here.gpus[g].memory_bytes >> 20));
    return text;
}

int main(int argc, char **argv)
{
    struct lode_error error = {0};
    if (argc != 4) {
        fprintf(stderr, "Usage: this_machine MODEL MACHINE-IN-WORDS FILE\n");
        return 2;
    }
    const struct probe_options options = {.drive_path = argv[1]};
    int code = probe_discover(&here, &options, &error);
    if (!code)
        code = lode_cpu_describe(&cpu, 0, &error);
    if (!code)
        code = machine_profile_parse(&profile, with_gpus(argv[2]), &error);
    if (!code) {
        sign();
        code = machine_profile_write(&profile, argv[3], &error);
    }
    if (code)
        fprintf(stderr, "this_machine: %s\n", error.text);
    return code ? 1 : 0;
}
