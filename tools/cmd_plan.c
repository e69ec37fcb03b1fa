// `lode plan`: what would lie where, and how fast it would be, before anything is loaded or bought.
#include "tools/cache_dir.h"
#include "tools/command.h"
#include "tools/machine_choice.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/options.h"
#include "tools/plan_report.h"
#include "tools/plan_svg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char command[] = "lode plan";

static const char usage[] =
    "Usage: lode plan [OPTION]... [MODEL]\n"
    "       lode plan [OPTION]... --shape SHAPE [--type TYPE]\n"
    "\n"
    "Says what of a model would lie on GPUs, in RAM and on the drive, how many tokens a second it would\n"
    "make after contexts of 0, 8K and 32K and why, and what would make it faster. Nothing is loaded.\n"
    "\n"
    "  --machine WHICH    the file of a machine profile, the name of a sample, or a few words:\n"
    "                     ram=32G@60,cores=8,gpu=12G@360,drive=3.5 (default: measured by lode probe)\n"
    "  --shape SHAPE      instead of a file: e2b, e4b, 12b, 26b-a4b, 31b, …\n"
    "  --type TYPE        of its matrices: q4_0 (default), q8_0, q4_k_m, … (see lode synth)\n"
    "  --ram SIZE|auto    ceiling for all memory (default: what the machine has)\n"
    "  --vram SIZE|auto|0 ceiling of each GPU (default: what it has); 0 leaves GPUs out\n"
    "  --drive GB/s       as if the drive read that fast in sequence\n"
    "  -c, --context N    tokens of the timeline (default: what each context needs, 4K at least)\n"
    "  --prompt N  --generate N  the turn that is planned for (512 and 128 tokens)\n"
    "  -t, --threads N  -b, --batch N  --kv f16|q8_0|f32  --ring SIZE  --no-prefetch\n"
    "  --svg FILE         draws where everything lies\n"
    "  --json             one JSON object;  -m, --model FILE: the same as MODEL\n"
    "\n"
    "Exit: 0 done, 1 failed or does not fit, 2 usage.\n"
    "\n"
    "Examples: lode plan --shape 26b-a4b --machine desktop-rtx3060-12gb --svg plan.svg\n"
    "          lode plan m.gguf --machine 'ram=32G@80,cores=8,drive=7'\n";

enum { LEAST_RING_BYTES = 1 << 20, LEAST_VRAM_BYTES = 64 << 20, MOST_TURN_TOKENS = 1 << 20 };

struct command_plan {
    struct model_options model;
    struct lode_plan_options options;
    const char *machine, *vram, *svg;
    float drive_gbps;
    bool json;
    char machine_path[MACHINE_PATH_SIZE], heat_dir[MODEL_PATH_SIZE];
    struct machine this_machine;
    struct lode_plan plan;
};

// A size as of any option, but that 0 is not auto.
static bool read_vram(struct command_plan *job, int *exit_code)
{
    const struct option options[] = {OPTION_IS_BYTES("vram", &job->options.vram_bytes, LEAST_VRAM_BYTES)};
    struct option_parser parser = {.command = command, .usage = usage, .options = options, .n_options = 1};
    char name[] = "plan", option[] = "--vram";
    char *arguments[] = {name, option, (char *)job->vram, NULL};
    job->options.no_gpu = strcmp(job->vram, "0") == 0;
    return job->options.no_gpu || options_parse(&parser, 3, arguments, exit_code);
}

static bool parse(struct command_plan *job, int argc, char **argv, int *exit_code)
{
    struct model_options *m = &job->model;
    const struct option options[] = {
        OPTION_IS_TEXT("model", 'm', &m->path),
        OPTION_IS_TEXT("shape", 0, &job->options.shape),
        OPTION_IS_TEXT("type", 0, &job->options.type),
        OPTION_IS_TEXT("machine", 0, &job->machine),
        OPTION_IS_BYTES("ram", &m->ram_bytes, MODEL_LEAST_RAM_BYTES),
        OPTION_IS_TEXT("vram", 0, &job->vram),
        OPTION_IS_NUMBER("drive", &job->drive_gbps, 0.01, 200),
        OPTION_IS_COUNT("context", 'c', &m->context, 1, 16 << 20),
        OPTION_IS_COUNT("threads", 't', &m->threads, 1, 1024),
        OPTION_IS_COUNT("batch", 'b', &m->batch, 1, 64 << 10),
        OPTION_IS_CHOICE("kv", &m->kv, model_kv_choices),
        OPTION_IS_COUNT("prompt", 0, &job->options.prompt_tokens, 1, MOST_TURN_TOKENS),
        OPTION_IS_COUNT("generate", 0, &job->options.generated_tokens, 1, MOST_TURN_TOKENS),
        OPTION_IS_BYTES("ring", &job->options.ring_bytes, LEAST_RING_BYTES),
        OPTION_IS_FLAG("no-prefetch", 0, &job->options.no_prefetch),
        OPTION_IS_TEXT("svg", 0, &job->svg),
        OPTION_IS_FLAG("json", 0, &job->json),
    };
    const char *operand = NULL;
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .operands = &operand,
                                   .max_operands = 1};
    if (!options_parse(&parser, argc, argv, exit_code) || (job->vram && !read_vram(job, exit_code)))
        return false;
    if (operand && m->path)
        *exit_code = message_usage(command, "-m and '%s' are two files; give one of them", operand);
    else if (job->options.shape && (operand || m->path))
        *exit_code = message_usage(command, "a file and --shape are two models; give one of them");
    else if (job->options.type && !job->options.shape)
        *exit_code = message_usage(command, "--type is of a --shape; a file has its own types");
    else if (job->svg && (!job->svg[0] || strcmp(job->svg, "-") == 0))
        *exit_code = message_usage(command, "--svg '%s': a picture needs the name of a file", job->svg);
    if (operand)
        m->path = operand;
    return *exit_code == EXIT_OK;
}

// ---- the machine
// -----------------------------------------------------------------------------------------------

// A profile that was measured on another machine, or on this one before something in it changed, says nothing
// of this one. Only the drive may be another: what stays in memory can be planned without.
static int find_this_machine(struct command_plan *job)
{
    struct machine *machine = &job->this_machine;
    struct lode_error error = {0};
    if (machine_open(machine, NULL, job->options.shape ? NULL : job->model.path, &error))
        return message_failed(command, &error);
    if (machine->match == MACHINE_ABSENT) {
        message_note(command, "this machine has not been measured yet: run `lode probe` first, or name a "
                              "machine with --machine");
        return EXIT_FAILED;
    }
    if (machine->match == MACHINE_DAMAGED) {
        message_note(command, "%s", machine->why);
        return EXIT_FAILED;
    }
    if (machine->match == MACHINE_FOREIGN) {
        message_note(command,
                     "the stored profile is not of this machine: %s. Run `lode probe`, or ask about that "
                     "machine with --machine %s",
                     machine->why, machine->path);
        return EXIT_FAILED;
    }
    if (machine->match == MACHINE_OTHER_DRIVE)
        message_note(command, "planned without a drive: %s; `lode probe --drive %s` measures it",
                     machine->why, job->model.path ? job->model.path : "PATH");
    if (machine_file(machine, machine->match == MACHINE_SAME, &error))
        return message_failed(command, &error);
    job->options.machine_file = machine->file;
    job->options.this_machine = true;
    return EXIT_OK;
}

static int find_machine(struct command_plan *job)
{
    if (!job->machine)
        return find_this_machine(job);
    if (access(job->machine, F_OK) == 0)
        job->options.machine_file = job->machine;
    else if (strchr(job->machine, '='))
        job->options.machine_text = job->machine;
    else {
        job->options.machine_file = job->machine_path;
        return machine_sample_find(job->machine_path, job->machine, command);
    }
    return EXIT_OK;
}

// ---- the command
// ---------------------------------------------------------------------------------------------

// The picture first: when it fails, there is nothing on stdout.
static int show(const struct command_plan *job)
{
    const char *kv = model_kv_choices[job->model.kv];
    struct lode_error error = {0};
    if (job->svg && plan_svg_write(job->svg, &job->plan, kv, &error))
        return message_failed(command, &error);
    if (!job->json)
        plan_report_text(stdout, &job->plan, kv);
    else if (plan_report_json(stdout, &job->plan, kv))
        return EXIT_FAILED;
    return EXIT_OK;
}

static int execute(struct command_plan *job)
{
    int code = job->options.shape ? EXIT_OK : model_find(&job->model, command);
    if (!code)
        code = find_machine(job);
    if (code)
        return code;
    job->options.ram_bytes = job->model.ram_bytes;
    job->options.context = job->model.context;
    job->options.threads = job->model.threads;
    job->options.batch = job->model.batch;
    job->options.kv = job->model.kv;
    job->options.drive_gbps = job->drive_gbps;
    if (!job->options.shape && cache_dir_heat(job->heat_dir, sizeof job->heat_dir))
        job->options.heat_dir = job->heat_dir;
    struct lode_error error = {0};
    code = lode_plan_make(&job->plan, job->options.shape ? NULL : job->model.path, &job->options, &error);
    if (code == LODE_ERR_ARGUMENT)
        return message_usage(command, "%s", error.text);
    if (code)
        return message_failed(command, &error);
    code = show(job);
    lode_plan_free(&job->plan);
    return code;
}

int cmd_plan(int argc, char **argv)
{
    struct command_plan *job = calloc(1, sizeof *job);
    if (!job) {
        message_note(command, "no memory for a plan");
        return EXIT_FAILED;
    }
    int code;
    if (parse(job, argc, argv, &code))
        code = execute(job);
    machine_close(&job->this_machine);
    free(job);
    return code;
}
