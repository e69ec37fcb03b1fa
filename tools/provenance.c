// Looking up where a result comes from, and telling it.
#include "tools/provenance.h"

#include "tools/commit.h"
#include "tools/json_out.h"
#include "tools/machine.h"
#include "tools/text.h"

#include "profiles/utc_time.h"

#include <glob.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

const char *provenance_commit(void)
{
    return LODE_COMMIT;
}

// ---- the drive
// -----------------------------------------------------------------------------------------------

static bool read_number(double *out, const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    const bool got = fscanf(file, "%lf", out) == 1 && isfinite(*out);
    fclose(file);
    return got;
}

// Where kernels put the sensor of a drive: NVMe since 5.15 and before, SATA by drivetemp.
static bool read_temperature(double *out, const char *sys, const char *device)
{
    static const char *const places[] = {"device/hwmon*/temp1_input", "device/hwmon/hwmon*/temp1_input",
                                         "device/device/hwmon/hwmon*/temp1_input"};
    bool found = false;
    for (size_t i = 0; i < sizeof places / sizeof *places && !found; i++) {
        char pattern[512];
        glob_t paths;
        snprintf(pattern, sizeof pattern, "%s/block/%s/%s", sys, device, places[i]);
        if (glob(pattern, 0, NULL, &paths) != 0)
            continue;
        found = paths.gl_pathc && read_number(out, paths.gl_pathv[0]);
        globfree(&paths);
    }
    *out /= 1000; // millidegrees
    return found;
}

void provenance_drive_read(struct provenance_drive *drive, const char *sys)
{
    char path[512];
    double value = 0;
    drive->has_temperature = drive->has_read_ahead = false;
    if (!drive->device[0] || strpbrk(drive->device, "/*?[") || drive->device[0] == '.')
        return;
    drive->has_temperature = read_temperature(&drive->temperature_c, sys, drive->device);
    snprintf(path, sizeof path, "%s/block/%s/queue/read_ahead_kb", sys, drive->device);
    if (read_number(&value, path) && value >= 0 && value <= UINT32_MAX) {
        drive->read_ahead_kb = (uint32_t)value;
        drive->has_read_ahead = true;
    }
}

// ---- the machine and the model
// -------------------------------------------------------------------------------

static int find_machine(struct provenance *out, const char *path, struct lode_error *error)
{
    struct machine_profile *here = malloc(sizeof *here);
    if (!here)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
    const struct probe_options options = {.drive_path = path};
    struct lode_error cause;
    if (probe_discover(here, &options, &cause) == 0) {
        snprintf(out->cpu, sizeof out->cpu, "%s", here->cpu.name);
        if (here->n_drives) {
            snprintf(out->drive.device, sizeof out->drive.device, "%s", here->drives[0].device);
            snprintf(out->drive.name, sizeof out->drive.name, "%s", here->drives[0].name);
        }
    }
    free(here);
    provenance_drive_read(&out->drive, "/sys");
    return 0;
}

static void find_profile(struct provenance *out, const char *path)
{
    struct machine machine = {0};
    struct lode_error cause;
    if (machine_open(&machine, NULL, path, &cause) != 0) {
        snprintf(out->machine_source, sizeof out->machine_source, "%.150s", cause.text);
        machine_close(&machine);
        return;
    }
    const struct machine_profile *profile = machine.profile;
    if (profile)
        snprintf(out->machine, sizeof out->machine, "%s", profile->name);
    if (!profile)
        snprintf(out->machine_source, sizeof out->machine_source, "%s",
                 machine.match == MACHINE_DAMAGED ? "damaged" : "none, lode probe makes one");
    else if (machine.match == MACHINE_FOREIGN)
        snprintf(out->machine_source, sizeof out->machine_source, "not of this machine as it is now");
    else
        snprintf(out->machine_source, sizeof out->machine_source, "measured %s%s", profile->made,
                 machine.match == MACHINE_OTHER_DRIVE ? ", on another drive" : "");
    machine_close(&machine);
}

int provenance_open(struct provenance *out, const char *path, struct lode_error *error)
{
    *out = (struct provenance){.repeats = 1};
    struct lode_file *file;
    struct utsname system;
    const char *slash = strrchr(path, '/');
    snprintf(out->model, sizeof out->model, "%s", slash ? slash + 1 : path);
    utc_time_now(out->date);
    int code = lode_file_open(&file, path, error);
    if (code)
        return code;
    code = lode_file_fingerprint(file, &out->fingerprint, error);
    lode_file_close(file);
    if (uname(&system) == 0)
        snprintf(out->kernel, sizeof out->kernel, "%s %s", system.sysname, system.release);
    if (!code)
        code = find_machine(out, path, error);
    if (!code)
        find_profile(out, path);
    return code;
}

// ---- telling
// -------------------------------------------------------------------------------------------------

static void print_drive(FILE *stream, const struct provenance_drive *drive)
{
    char name[sizeof drive->name];
    fprintf(stream, "drive    %s", drive->device[0] ? drive->device : "not known");
    if (drive->name[0] && strcmp(drive->name, drive->device) != 0)
        fprintf(stream, ", %s", text_printable(name, sizeof name, drive->name));
    if (drive->has_read_ahead)
        fprintf(stream, ", read-ahead %" PRIu32 " KiB%s", drive->read_ahead_kb,
                drive->read_ahead_kb == PROVENANCE_USUAL_READ_AHEAD_KB ? "" : " (not the usual 128)");
    if (drive->has_temperature)
        fprintf(stream, ", %.0f degrees C", drive->temperature_c);
    fprintf(stream, "\n");
}

void provenance_print(FILE *stream, const struct provenance *p)
{
    char model[sizeof p->model], machine[sizeof p->machine];
    fprintf(stream, "lode     %s, commit %s, %s\n", lode_version(), provenance_commit(), p->date);
    fprintf(stream, "model    %s, fingerprint %016" PRIx64, text_printable(model, sizeof model, p->model),
            p->fingerprint);
    if (p->plan_hash)
        fprintf(stream, ", plan %016" PRIx64, p->plan_hash);
    fprintf(stream, "\nmachine  %s, %s, profile %s%s%s\n", p->cpu[0] ? p->cpu : "not known", p->kernel,
            text_printable(machine, sizeof machine, p->machine), p->machine[0] ? ", " : "",
            p->machine_source);
    print_drive(stream, &p->drive);
    fprintf(stream, "runs     %" PRIu32 " of each, %s\n", p->repeats, p->order);
    if (p->settings[0])
        fprintf(stream, "settings %s\n", p->settings);
}

static void add_text(json_t *object, const char *name, const char *text)
{
    json_object_set_new(object, name, text[0] ? json_out_text(text, strlen(text)) : json_null());
}

static void add_hash(json_t *object, const char *name, uint64_t hash)
{
    char text[20];
    snprintf(text, sizeof text, "%016" PRIx64, hash);
    add_text(object, name, hash ? text : "");
}

static json_t *drive_json(const struct provenance_drive *drive)
{
    json_t *object = json_object();
    add_text(object, "device", drive->device);
    add_text(object, "name", drive->name);
    json_object_set_new(object, "temperature_c",
                        drive->has_temperature ? json_out_number(drive->temperature_c) : json_null());
    json_object_set_new(object, "read_ahead_kb",
                        drive->has_read_ahead ? json_integer(drive->read_ahead_kb) : json_null());
    return object;
}

json_t *provenance_json(const struct provenance *p)
{
    json_t *object = json_object();
    add_text(object, "version", lode_version());
    add_text(object, "commit", provenance_commit());
    add_text(object, "date", p->date);
    add_text(object, "model", p->model);
    add_hash(object, "fingerprint", p->fingerprint);
    add_hash(object, "plan_hash", p->plan_hash);
    add_text(object, "machine", p->machine);
    add_text(object, "machine_source", p->machine_source);
    add_text(object, "cpu", p->cpu);
    add_text(object, "kernel", p->kernel);
    json_object_set_new(object, "drive", drive_json(&p->drive));
    json_object_set_new(object, "repeats", json_integer(p->repeats));
    add_text(object, "order", p->order);
    add_text(object, "settings", p->settings);
    return object;
}
