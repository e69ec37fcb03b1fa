// `lode probe`: measures the machine, keeps the profile, shows and forgets it.
#include "tools/command.h"
#include "tools/config_dir.h"
#include "tools/interrupt.h"
#include "tools/machine.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/options.h"
#include "tools/probe_report.h"
#include "tools/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char command[] = "lode probe";

static const char usage[] =
    "Usage: lode probe [--quick|--thorough] [--drive PATH|-m MODEL] [OPTION]...\n"
    "\n"
    "Measures what the processor, its memory, the GPUs and the drive of the model can do, with the\n"
    "program's own kernels and reads, in a minute, and keeps the result for planning. A folder is\n"
    "measured with a file of up to 1 GB that has no name and is gone afterwards, also when interrupted.\n"
    "\n"
    "  --quick            10 seconds: fewer points, fewer repeats\n"
    "  --thorough         5 minutes: every type of weights. Each GPU takes a quarter of the time more\n"
    "  --drive PATH       the drive of this folder or file (of $LODE_MODEL, else of the current folder)\n"
    "  -m, --model MODEL  the drive that this model lies on\n"
    "  --devices LIST     these GPUs, as cuda0,cuda1 (all that can be used; lode devices); cpu: none.\n"
    "                     With others than all of the machine's it needs -o\n"
    "  -t, --threads N    with so many threads (one for each core)\n"
    "  --isa auto|portable|avx2|avx2-vnni|avx512|amx\n"
    "  -o, --output FILE  write the profile to FILE, not to the user's configuration\n"
    "  --json             print the profile as JSON instead of the table\n"
    "  --show             print what is kept, and whether it is of this machine; measure nothing\n"
    "  --forget [learned] remove what is kept, or only what runs have taught about it\n"
    "Exit: 0 done, 1 failed, 2 usage, 130 interrupted (nothing is kept), 143 terminated.\n"
    "Examples:\n"
    "  lode probe -m gemma-4-26B-A4B-it-Q4_0.gguf\n"
    "  lode probe --quick --drive /mnt/models -o pc.json\n";

struct command_probe {
    bool quick, thorough, json, show, forget;
    const char *drive, *model, *output, *devices;
    uint32_t threads;
    int isa;
    const char *what;           // of --forget: NULL is all
    char path[MODEL_PATH_SIZE]; // of the profile
};

static int check_usage(const struct command_probe *p)
{
    const bool measures =
        p->quick || p->thorough || p->drive || p->model || p->threads || p->isa || p->devices;
    if (p->quick && p->thorough)
        return message_usage(command, "--quick and --thorough contradict each other");
    if (p->drive && p->model)
        return message_usage(command, "--drive and -m are two drives; give one of them");
    if (p->show && p->forget)
        return message_usage(command, "--show and --forget contradict each other");
    if ((p->show || p->forget) && measures)
        return message_usage(command, "%s measures nothing; leave out what says how",
                             p->show ? "--show" : "--forget");
    if (p->forget && p->json)
        return message_usage(command, "--forget shows nothing; leave out --json");
    if (p->what && (!p->forget || strcmp(p->what, "learned") != 0))
        return message_usage(command, "'%s' is one argument too many; after --forget there may be 'learned'",
                             p->what);
    const char *empty = p->drive && !p->drive[0]     ? "--drive"
                        : p->model && !p->model[0]   ? "-m"
                        : p->output && !p->output[0] ? "-o"
                                                     : NULL;
    if (p->devices && !p->devices[0])
        return message_usage(command, "--devices needs names of devices");
    return empty ? message_usage(command, "%s needs a path", empty) : EXIT_OK;
}

static bool parse(struct command_probe *p, int argc, char **argv, int *exit_code)
{
    const struct option options[] = {
        OPTION_IS_FLAG("quick", 0, &p->quick),
        OPTION_IS_FLAG("thorough", 0, &p->thorough),
        OPTION_IS_TEXT("drive", 0, &p->drive),
        OPTION_IS_TEXT("model", 'm', &p->model),
        OPTION_IS_TEXT("devices", 0, &p->devices),
        OPTION_IS_COUNT("threads", 't', &p->threads, 1, 1024),
        OPTION_IS_CHOICE("isa", &p->isa, model_isa_choices),
        OPTION_IS_TEXT("output", 'o', &p->output),
        OPTION_IS_FLAG("json", 0, &p->json),
        OPTION_IS_FLAG("show", 0, &p->show),
        OPTION_IS_FLAG("forget", 0, &p->forget),
    };
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .operands = &p->what,
                                   .max_operands = 1};
    if (!options_parse(&parser, argc, argv, exit_code))
        return false;
    *exit_code = check_usage(p);
    return *exit_code == EXIT_OK;
}

// Before a minute is spent on what could not be written.
static int check_output(const struct command_probe *p)
{
    char folder[sizeof p->path];
    const char *slash = strrchr(p->path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - p->path) + 1 : 1, slash ? p->path : ".");
    if (p->show || p->forget || access(folder, W_OK) == 0)
        return EXIT_OK;
    message_note(command, "cannot write %s: %s", p->path, strerror(errno));
    return EXIT_FAILED;
}

static int find_path(struct command_probe *p)
{
    if (p->output) {
        const int len = snprintf(p->path, sizeof p->path, "%s", p->output);
        if (len < (int)sizeof p->path)
            return check_output(p);
        message_note(command, "the path of the profile is too long");
        return EXIT_FAILED;
    }
    if (config_dir_profile(p->path, sizeof p->path))
        return EXIT_OK;
    message_note(command, "there is no place to keep the profile in: neither XDG_CONFIG_HOME nor HOME is an "
                          "absolute path; name a file with -o");
    return EXIT_FAILED;
}

// The file as it is: what was kept is what is shown.
static int print_json(const struct command_probe *p)
{
    struct text text = {0};
    struct lode_error error = {0};
    int code = text_read(&text, p->path, &error);
    if (!code)
        fwrite(text.bytes, 1, text.len, stdout);
    text_free(&text);
    return code ? message_failed(command, &error) : EXIT_OK;
}

// ---- what is kept
// --------------------------------------------------------------------------------------------

static int show_machine(const struct command_probe *p, const struct machine *machine)
{
    if (machine->match == MACHINE_ABSENT) {
        message_note(command, "nothing is kept yet; lode probe writes %s", p->path);
        return EXIT_FAILED;
    }
    if (machine->match == MACHINE_DAMAGED) {
        message_note(command, "%s", machine->why);
        return EXIT_FAILED;
    }
    if (p->json) {
        int code = print_json(p);
        if (code)
            return code;
    } else {
        probe_report_print(machine->profile);
    }
    char printable[sizeof p->path];
    text_printable(printable, sizeof printable, p->path);
    if (machine->profile->origin != PROFILE_MEASURED)
        message_note(command, "%s was not measured on any machine", printable);
    else if (machine->match == MACHINE_SAME)
        message_note(command, "%s is of this machine", printable);
    else
        message_note(command, "%s is of another machine: %s", printable, machine->why);
    return EXIT_OK;
}

static int show(const struct command_probe *p)
{
    struct lode_error error = {0};
    struct machine machine;
    int code = machine_open(&machine, p->path, NULL, &error);
    code = code ? message_failed(command, &error) : show_machine(p, &machine);
    machine_close(&machine);
    return code;
}

static int forget_learned(const struct command_probe *p)
{
    struct lode_error error = {0};
    bool forgotten = false;
    if (access(p->path, F_OK) != 0 && errno == ENOENT)
        message_note(command, "nothing is kept in %s", p->path);
    else if (machine_forget_learned(&forgotten, p->path, &error))
        return message_failed(command, &error);
    else if (!forgotten)
        message_note(command, "runs have taught nothing yet that is kept in %s", p->path);
    else
        printf("removed what runs have taught from %s\n", p->path);
    return EXIT_OK;
}

static int forget(const struct command_probe *p)
{
    if (unlink(p->path) == 0) {
        printf("removed %s\n", p->path);
        return EXIT_OK;
    }
    if (errno == ENOENT) {
        message_note(command, "nothing is kept in %s", p->path);
        return EXIT_OK;
    }
    message_note(command, "cannot remove %s: %s", p->path, strerror(errno));
    return EXIT_FAILED;
}

// ---- measuring
// -----------------------------------------------------------------------------------------------

// NULL: nothing was named and the current folder cannot be written.
static const char *choose_drive(const struct command_probe *p)
{
    if (p->drive || p->model)
        return p->drive ? p->drive : p->model;
    const char *model = getenv("LODE_MODEL");
    if (model && model[0])
        return model;
    if (access(".", W_OK) == 0)
        return ".";
    message_note(command,
                 "no drive is measured: the current folder cannot be written; name one with --drive");
    return NULL;
}

// What is kept as this machine's must have its GPUs, and no others: a plan would be about another machine.
static int check_gpus(const struct command_probe *p, const struct probe_gpus *gpus)
{
    char why[256];
    if (p->output || probe_gpus_are_all(gpus, why, sizeof why))
        return EXIT_OK;
    return message_usage(command, "--devices %s: %s; name a file for this profile with -o", p->devices, why);
}

static int measure_with(const struct command_probe *p, const struct probe_gpus *gpus)
{
    struct lode_error error = {0};
    struct machine_profile profile;
    struct probe_options options = {.mode = p->quick      ? PROBE_QUICK
                                            : p->thorough ? PROBE_THOROUGH
                                                          : PROBE_FULL,
                                    .threads = p->threads,
                                    .isa = p->isa ? model_isa_choices[p->isa] : NULL,
                                    .drive_path = choose_drive(p)};
    options.gpus = probe_gpus_list(gpus, &options.n_gpus);
    interrupt_watch(true);
    int code = machine_measure(&profile, command, &options, &error);
    if (!code)
        code = machine_profile_write(&profile, p->path, &error);
    if (code)
        return message_failed(command, &error);
    code = EXIT_OK;
    if (p->json)
        code = print_json(p);
    else
        probe_report_print(&profile);
    char printable[sizeof p->path];
    message_note(command, "written to %s", text_printable(printable, sizeof printable, p->path));
    return code;
}

static int measure(const struct command_probe *p)
{
    struct lode_error error = {0};
    struct probe_gpus *gpus;
    int code = probe_gpus_open(&gpus, p->devices, &error);
    if (code == LODE_ERR_ARGUMENT)
        return message_usage(command, "--devices: %s", error.text);
    if (code)
        return message_failed(command, &error);
    code = check_gpus(p, gpus);
    if (!code)
        code = measure_with(p, gpus);
    probe_gpus_close(gpus);
    return code;
}

int cmd_probe(int argc, char **argv)
{
    struct command_probe p = {.quick = false};
    int code;
    if (!parse(&p, argc, argv, &code))
        return code;
    code = find_path(&p);
    if (code)
        return code;
    if (p.forget)
        return p.what ? forget_learned(&p) : forget(&p);
    return p.show ? show(&p) : measure(&p);
}
