// The drive is a matter of its own: a profile that is right about the processor is of use for whatever lies
// on a drive that was measured, and for a model that is not read from any while it runs.
#include "tools/machine.h"

#include "tools/config_dir.h"
#include "tools/message.h"
#include "tools/progress.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LEAST_GPU_BYTES ((uint64_t)64 << 20) // that a profile may say

// ---- whether it is the same
// --------------------------------------------------------------------------------

static bool fingerprint_is_own(const struct machine_profile *profile)
{
    char own[sizeof profile->fingerprint];
    probe_fingerprint(own, profile);
    return strcmp(own, profile->fingerprint) == 0;
}

static bool is_drive(const struct profile_drive *a, const struct profile_drive *b)
{
    return strcmp(a->name, b->name) == 0 && strcmp(a->device, b->device) == 0;
}

// Makes the model's drive the first one; false where the profile has not got it.
static bool move_drive(struct machine_profile *profile, const struct profile_drive *drive)
{
    for (uint32_t i = 0; i < profile->n_drives; i++) {
        if (!is_drive(&profile->drives[i], drive))
            continue;
        const struct profile_drive found = profile->drives[i];
        profile->drives[i] = profile->drives[0];
        profile->drives[0] = found;
        probe_fingerprint(profile->fingerprint, profile);
        return true;
    }
    return false;
}

static int recognise(struct machine *m, const struct machine_profile *profile, struct lode_error *error)
{
    bool same;
    int code = probe_recognise(&same, m->why, sizeof m->why, profile, error);
    m->match = same ? MACHINE_SAME : MACHINE_FOREIGN;
    if (!code && m->match == MACHINE_SAME && !fingerprint_is_own(profile)) { // somebody changed them
        m->match = MACHINE_FOREIGN;
        snprintf(m->why, sizeof m->why, "its fingerprint is not that of its own figures");
    }
    if (!code && profile->origin != PROFILE_MEASURED) {
        m->match = MACHINE_FOREIGN;
        snprintf(m->why, sizeof m->why, "it was not measured on any machine");
    }
    return code;
}

// What the machine is without its drives, and then what became of the drive that was measured.
static int recognise_other_drive(struct machine *m, const char *drive, struct lode_error *error)
{
    struct machine_profile *bare = malloc(sizeof *bare);
    if (!bare)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
    *bare = *m->profile;
    bare->n_drives = 0;
    probe_fingerprint(bare->fingerprint, bare);
    int code = recognise(m, bare, error);
    free(bare);
    if (code || m->match != MACHINE_SAME)
        return code;
    code = recognise(m, m->profile, error);
    const struct profile_drive *was = m->profile->drives;
    if (!m->profile->n_drives)
        snprintf(m->why, sizeof m->why, "no drive was measured, and the model lies on %s", drive);
    else if (m->match == MACHINE_SAME)
        snprintf(m->why, sizeof m->why, "the drive that was measured is %s, and the model lies on %s",
                 was->name, drive);
    m->match = MACHINE_OTHER_DRIVE;
    return code;
}

static int compare(struct machine *m, const char *model_path, struct lode_error *error)
{
    if (!model_path || m->profile->origin != PROFILE_MEASURED || !fingerprint_is_own(m->profile))
        return recognise(m, m->profile, error);
    struct machine_profile *here = malloc(sizeof *here);
    if (!here)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
    const struct probe_options options = {.drive_path = model_path};
    int code = probe_discover(here, &options, error);
    if (!code)
        code = move_drive(m->profile, here->drives) ? recognise(m, m->profile, error)
                                                    : recognise_other_drive(m, here->drives[0].name, error);
    free(here);
    return code;
}

static int find_path(struct machine *m, const char *path)
{
    if (path)
        return snprintf(m->path, sizeof m->path, "%s", path) < (int)sizeof m->path ? 0 : -1;
    if (!config_dir_profile(m->path, sizeof m->path))
        m->path[0] = '\0';
    return 0;
}

int machine_open(struct machine *out, const char *path, const char *model_path, struct lode_error *error)
{
    *out = (struct machine){.match = MACHINE_ABSENT};
    if (find_path(out, path))
        return lode_fail(error, LODE_ERR_ARGUMENT, "the path of the profile is too long");
    snprintf(out->why, sizeof out->why, "this machine has not been measured yet");
    if (!out->path[0] || (access(out->path, F_OK) != 0 && errno == ENOENT))
        return LODE_OK;
    out->profile = malloc(sizeof *out->profile);
    if (!out->profile)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
    struct lode_error damage = {0};
    int code = machine_profile_read(out->profile, out->path, &damage);
    if (!code) {
        out->kept = true;
        code = compare(out, model_path, error);
        if (code)
            machine_close(out);
        return code;
    }
    machine_close(out);
    out->match = MACHINE_DAMAGED;
    snprintf(out->why, sizeof out->why, "%s", damage.text);
    return LODE_OK;
}

void machine_close(struct machine *machine)
{
    if (machine->file[0])
        close(machine->fd);
    machine->file[0] = '\0';
    free(machine->profile);
    machine->profile = NULL;
    machine->kept = false;
}

// ---- as a file
// -------------------------------------------------------------------------------------------------

static int write_all(int fd, const char *text, size_t len)
{
    while (len) {
        const ssize_t written = write(fd, text, len);
        if (written <= 0 && errno != EINTR)
            return -1;
        text += written > 0 ? written : 0;
        len -= written > 0 ? (size_t)written : 0;
    }
    return 0;
}

static int write_file(struct machine *machine, const struct machine_profile *profile,
                      struct lode_error *error)
{
    char *text;
    size_t len;
    int code = machine_profile_write_text(&text, &len, profile, "the machine profile", error);
    if (code)
        return code;
    if (machine->file[0])
        close(machine->fd);
    machine->fd = memfd_create("machine", MFD_CLOEXEC);
    snprintf(machine->file, sizeof machine->file, "/proc/self/fd/%d", machine->fd);
    if (machine->fd < 0 || write_all(machine->fd, text, len)) {
        code = lode_fail(error, LODE_ERR_IO, "cannot make a file in memory: %s", strerror(errno));
        if (machine->fd >= 0)
            close(machine->fd);
        machine->file[0] = '\0';
    }
    free(text);
    return code;
}

// A copy that may be changed, for the caller to free.
static struct machine_profile *copy_profile(const struct machine *machine, bool with_drive,
                                            struct lode_error *error)
{
    struct machine_profile *copy = malloc(sizeof *copy);
    if (!copy) {
        lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
        return NULL;
    }
    *copy = *machine->profile;
    copy->n_drives = with_drive && copy->n_drives ? 1 : 0;
    return copy;
}

int machine_file(struct machine *machine, bool with_drive, struct lode_error *error)
{
    struct machine_profile *copy = copy_profile(machine, with_drive, error);
    int code = copy ? write_file(machine, copy, error) : LODE_ERR_MEMORY;
    free(copy);
    return code;
}

int machine_file_with(struct machine *machine, bool with_drive, const uint32_t *gpus,
                      const uint64_t *free_bytes, uint32_t n_gpus, struct lode_error *error)
{
    struct machine_profile *copy = copy_profile(machine, with_drive, error);
    if (!copy)
        return LODE_ERR_MEMORY;
    copy->n_gpus = 0;
    for (uint32_t i = 0; i < n_gpus && i < PROFILE_GPUS; i++) {
        struct profile_device *gpu = &copy->gpus[copy->n_gpus++];
        *gpu = machine->profile->gpus[gpus[i]];
        if (free_bytes[i] && free_bytes[i] < gpu->memory_bytes)
            gpu->memory_bytes = free_bytes[i] > LEAST_GPU_BYTES ? free_bytes[i] : LEAST_GPU_BYTES;
    }
    int code = write_file(machine, copy, error);
    free(copy);
    return code;
}

// ---- measuring
// -------------------------------------------------------------------------------------------------

struct listener {
    const char *command;
    struct progress progress;
};

static bool on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct listener *listener = user;
    return progress_show(&listener->progress, what, done, total);
}

static void on_note(void *user, const char *text)
{
    struct listener *listener = user;
    progress_end(&listener->progress);
    message_note(listener->command, "%s", text);
}

int machine_measure(struct machine_profile *out, const char *command, const struct probe_options *options,
                    struct lode_error *error)
{
    struct listener listener = {.command = command};
    struct probe_options told = *options;
    told.on_progress = on_progress;
    told.on_note = on_note;
    told.user = &listener;
    progress_begin(&listener.progress);
    int code = probe_machine(out, &told, error);
    progress_end(&listener.progress);
    return code;
}

static void add_drives(struct machine_profile *out, const struct machine_profile *from)
{
    for (uint32_t i = 0; i < from->n_drives && out->n_drives < PROFILE_DRIVES; i++)
        if (!is_drive(&from->drives[i], out->drives))
            out->drives[out->n_drives++] = from->drives[i];
}

// `fresh` has the one drive that the old profile lacks.
static void merge(struct machine_profile *fresh, const struct machine_profile *old)
{
    add_drives(fresh, old);
    if (strcmp(old->mode, "quick") == 0)
        return;
    struct machine_profile *merged = malloc(sizeof *merged);
    if (!merged)
        return; // what is fresh is right as well
    *merged = *old;
    memcpy(merged->drives, fresh->drives, sizeof merged->drives);
    merged->n_drives = fresh->n_drives;
    memcpy(merged->interference, fresh->interference, sizeof merged->interference);
    merged->learned[PROFILE_PART_DRIVE] = fresh->learned[PROFILE_PART_DRIVE];
    probe_fingerprint(merged->fingerprint, merged);
    *fresh = *merged;
    free(merged);
}

// A profile that is kept as the machine's has all of its GPUs.
static int measure_all(struct machine_profile *out, const char *command, const struct probe_options *options,
                       struct lode_error *error)
{
    struct probe_gpus *gpus;
    struct probe_options all = *options;
    int code = probe_gpus_open(&gpus, NULL, error);
    if (code)
        return code;
    all.gpus = probe_gpus_list(gpus, &all.n_gpus);
    code = machine_measure(out, command, &all, error);
    probe_gpus_close(gpus);
    return code;
}

int machine_refresh(struct machine *machine, const char *command, const struct probe_options *options,
                    struct lode_error *error)
{
    struct machine_profile *fresh = malloc(sizeof *fresh);
    if (!fresh)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
    int code = measure_all(fresh, command, options, error);
    if (code) {
        free(fresh);
        return code;
    }
    if (machine->match == MACHINE_OTHER_DRIVE)
        merge(fresh, machine->profile);
    free(machine->profile);
    machine->profile = fresh;
    machine->match = MACHINE_SAME;
    machine->kept = false;
    machine->why[0] = '\0';
    return LODE_OK;
}

int machine_keep(struct machine *machine, struct lode_error *error)
{
    if (!machine->path[0])
        return lode_fail(error, LODE_ERR_IO,
                         "there is no place to keep the profile in: neither XDG_CONFIG_HOME nor HOME is an "
                         "absolute path");
    int code = machine_profile_write(machine->profile, machine->path, error);
    machine->kept = !code;
    return code;
}

// ---- what runs teach
// -------------------------------------------------------------------------------------------

static bool is_same_measurement(const struct machine_profile *a, const struct machine_profile *b)
{
    return a->origin == PROFILE_MEASURED && strcmp(a->made, b->made) == 0 && strcmp(a->mode, b->mode) == 0 &&
           strcmp(a->cpu.name, b->cpu.name) == 0 && a->n_drives == b->n_drives && a->n_gpus == b->n_gpus;
}

int machine_learn(struct machine *machine, const struct learn_sample *sample, struct lode_error *error)
{
    if (!machine->kept || !machine->profile)
        return LODE_OK;
    struct machine_profile *stored = malloc(sizeof *stored);
    if (!stored)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
    int code = machine_profile_read(stored, machine->path, error);
    if (!code && is_same_measurement(stored, machine->profile) && learn_update(stored->learned, sample))
        code = machine_profile_write(stored, machine->path, error);
    free(stored);
    return code;
}

int machine_forget_learned(bool *out_forgotten, const char *path, struct lode_error *error)
{
    *out_forgotten = false;
    struct machine_profile *stored = malloc(sizeof *stored);
    if (!stored)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
    int code = machine_profile_read(stored, path, error);
    for (int part = 0; part < PROFILE_PARTS && !code; part++) {
        *out_forgotten |= stored->learned[part].runs > 0;
        stored->learned[part].runs = 0;
        stored->learned[part].factor = 1;
    }
    if (!code && *out_forgotten)
        code = machine_profile_write(stored, path, error);
    free(stored);
    return code;
}
