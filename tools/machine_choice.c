// Where machines are looked for, and what is said when there is none.
#include "tools/machine_choice.h"

#include "tools/message.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef LODE_SOURCE_MACHINE_DIR
#define LODE_SOURCE_MACHINE_DIR "profiles/machines"
#endif
#ifndef LODE_MACHINE_DIR
#define LODE_MACHINE_DIR "/usr/local/share/lode/machines"
#endif

// The source tree first, as for the demo model.
static const char *const sample_dirs[] = {LODE_SOURCE_MACHINE_DIR, LODE_MACHINE_DIR};
enum { N_SAMPLE_DIRS = sizeof sample_dirs / sizeof *sample_dirs };

static int fail_unknown(const char *name, const char *command)
{
    char list[700] = "";
    size_t used = 0;
    for (size_t i = 0; i < N_SAMPLE_DIRS && !used; i++) {
        DIR *dir = opendir(sample_dirs[i]);
        const struct dirent *entry;
        while (dir && (entry = readdir(dir)) && used < sizeof list) {
            const size_t len = strlen(entry->d_name);
            if (len > 5 && strcmp(entry->d_name + len - 5, ".json") == 0)
                used += (size_t)snprintf(list + used, sizeof list - used, "%s%.*s", used ? ", " : "",
                                         (int)len - 5, entry->d_name);
        }
        if (dir)
            closedir(dir);
    }
    return message_usage(command,
                         "--machine '%s' is no file, no sample (%s) and no description such as "
                         "ram=32G@60,cores=8,drive=3.5",
                         name, used ? list : "none are installed");
}

int machine_sample_find(char path[MACHINE_PATH_SIZE], const char *name, const char *command)
{
    for (size_t i = 0; i < N_SAMPLE_DIRS && !strchr(name, '/'); i++) {
        const int len = snprintf(path, MACHINE_PATH_SIZE, "%s/%s.json", sample_dirs[i], name);
        if (len > 0 && len < MACHINE_PATH_SIZE && access(path, R_OK) == 0)
            return EXIT_OK;
    }
    return fail_unknown(name, command);
}

static void name_source(struct machine_choice *c, const char *otherwise)
{
    if (c->profile->origin == PROFILE_MEASURED)
        snprintf(c->source, sizeof c->source, "measured %s", c->profile->made);
    else
        snprintf(c->source, sizeof c->source, "%s", otherwise);
}

static int open_named(struct machine_choice *c, const char *which, const char *command)
{
    struct lode_error error = {0};
    const char *source = "from a file";
    int code;
    if (access(which, F_OK) == 0) {
        if ((size_t)snprintf(c->path, sizeof c->path, "%s", which) >= sizeof c->path)
            return message_usage(command, "--machine: the name of the file is too long");
        code = machine_profile_read(c->profile, which, &error);
    } else if (strchr(which, '=')) {
        source = "described in words";
        code = machine_profile_parse(c->profile, which, &error);
    } else {
        source = "a sample, from data sheets";
        code = machine_sample_find(c->path, which, command);
        if (code)
            return code;
        code = machine_profile_read(c->profile, c->path, &error);
    }
    if (code == LODE_ERR_ARGUMENT)
        return message_usage(command, "%s", error.text);
    if (code)
        return message_failed(command, &error);
    name_source(c, source);
    return EXIT_OK;
}

static int refuse_this(const struct machine *machine, const char *model_path, const char *command)
{
    if (machine->match == MACHINE_ABSENT)
        message_note(command, "this machine has not been measured yet: run `lode probe` first, or name a "
                              "machine with --machine");
    else if (machine->match == MACHINE_FOREIGN)
        message_note(command,
                     "the stored profile is not of this machine: %s. Run `lode probe`, or ask about that "
                     "machine with --machine %s",
                     machine->why, machine->path);
    else if (machine->match == MACHINE_OTHER_DRIVE)
        message_note(command, "%s; `lode probe --drive %s` measures it", machine->why,
                     model_path ? model_path : "PATH");
    else
        message_note(command, "%s", machine->why);
    return EXIT_FAILED;
}

static int open_this(struct machine_choice *c, const char *model_path, const char *command)
{
    struct lode_error error = {0};
    struct machine *machine = calloc(1, sizeof *machine);
    if (!machine) {
        message_note(command, "no memory for a machine profile");
        return EXIT_FAILED;
    }
    int code = machine_open(machine, NULL, model_path, &error) ? message_failed(command, &error) : EXIT_OK;
    if (!code && machine->match != MACHINE_SAME)
        code = refuse_this(machine, model_path, command);
    if (!code) {
        *c->profile = *machine->profile;
        snprintf(c->path, sizeof c->path, "%s", machine->path);
        name_source(c, "this machine");
    }
    machine_close(machine);
    free(machine);
    return code;
}

int machine_choice_open(struct machine_choice *out, const char *which, const char *model_path,
                        const char *command)
{
    *out = (struct machine_choice){.profile = malloc(sizeof *out->profile)};
    if (!out->profile) {
        message_note(command, "no memory for a machine profile");
        return EXIT_FAILED;
    }
    return which ? open_named(out, which, command) : open_this(out, model_path, command);
}

void machine_choice_close(struct machine_choice *choice)
{
    free(choice->profile);
    choice->profile = NULL;
}
