// `lode synth`: a model file of a real shape with random weights, to measure and test without a download.
#include "tools/command.h"
#include "tools/interrupt.h"
#include "tools/message.h"
#include "tools/options.h"
#include "tools/progress.h"
#include "tools/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

static const char command[] = "lode synth";

static const char usage[] =
    "Usage: lode synth SHAPE [OPTION]... -o FILE\n"
    "       lode synth SHAPE [OPTION]... --dry-run\n"
    "\n"
    "Writes a GGUF file with the names, dimensions, types and metadata of a published model and with\n"
    "random weights. It runs as fast as the real one and says nothing sensible.\n"
    "\n"
    "Shapes: e2b, e4b, 12b, 26b-a4b, 31b, and for tests tiny-e2b, tiny-moe, tiny-31b.\n"
    "\n"
    "  -o, --output FILE   where the file goes; it appears when it is complete\n"
    "  --type TYPE         of the matrices: q4_0 (default), q8_0, q4_k, q6_k, bf16, f16, f32, …;\n"
    "                      or the mixes of published files: q4_k_m, q4_k_s, q5_k_m\n"
    "  --head-type TYPE    of the embeddings; default: as published files of that type have it\n"
    "  --layers N          this many layers instead of the shape's, 1 to 512\n"
    "  --seed N            another seed, other weights (default 0)\n"
    "  --skew S            some experts are chosen more often: Zipf's law, exponent 0 (default) to 4\n"
    "  -t, --threads N     threads that draw (default: one for each processor)\n"
    "  --sync              end only when the file is on the disk\n"
    "  --dry-run           write nothing, show what the file would take\n"
    "\n"
    "Exit: 0 done, 1 failed, 2 usage, 130 interrupted, 143 terminated.\n"
    "\n"
    "Examples:\n"
    "  lode synth 26b-a4b --skew 1.2 -o 26b-q4_0.gguf\n"
    "  lode synth 31b --type q4_k_m --dry-run\n";

struct synth {
    struct lode_synth_options options;
    const char *output;
    bool dry_run;
};

static bool parse(struct synth *job, int argc, char **argv, int *exit_code)
{
    const struct option options[] = {
        OPTION_IS_TEXT("output", 'o', &job->output),
        OPTION_IS_TEXT("type", 0, &job->options.type),
        OPTION_IS_TEXT("head-type", 0, &job->options.head_type),
        OPTION_IS_COUNT("layers", 0, &job->options.layers, 1, 512),
        {.name = "seed", .kind = OPTION_SEED, .target = &job->options.seed},
        OPTION_IS_NUMBER("skew", &job->options.skew, 0, 4),
        OPTION_IS_COUNT("threads", 't', &job->options.threads, 1, 256),
        OPTION_IS_FLAG("sync", 0, &job->options.sync),
        OPTION_IS_FLAG("dry-run", 0, &job->dry_run),
    };
    job->options.shape = NULL;
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .operands = &job->options.shape,
                                   .max_operands = 1};
    if (!options_parse(&parser, argc, argv, exit_code))
        return false;
    if (!job->options.shape)
        *exit_code = message_usage(command, "which shape? Name one, such as e2b or 26b-a4b");
    else if (!job->output && !job->dry_run)
        *exit_code = message_usage(command, "where does the file go? Give -o FILE, or --dry-run");
    else if (job->output && job->dry_run)
        *exit_code = message_usage(command, "--dry-run writes nothing; give -o or --dry-run, not both");
    return *exit_code == EXIT_OK;
}

static void print_size(const struct lode_synth_size *size)
{
    char parameters[TEXT_NUMBER_SIZE], bytes[TEXT_NUMBER_SIZE];
    printf("%-22s %8s %12s %12s  %s\n", "group", "tensors", "parameters", "size", "types");
    for (int g = 0; g < LODE_SYNTH_GROUPS; g++) {
        const struct lode_synth_group *group = &size->groups[g];
        if (group->tensors)
            printf("%-22s %8" PRIu64 " %12s %12s  %s\n", group->kind, group->tensors,
                   text_count(parameters, group->parameters), text_bytes(bytes, group->bytes), group->types);
    }
    printf("%-22s %8" PRIu64 " %12s %12s\n", "all weights", size->tensors,
           text_count(parameters, size->parameters), text_bytes(bytes, size->weight_bytes));
    printf("%-22s %8s %12s %12s  %" PRIu64 " bytes\n", "file", "", "", text_bytes(bytes, size->file_bytes),
           size->file_bytes);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int write_file(const struct synth *job, const struct lode_synth_size *size, struct lode_error *error)
{
    struct progress progress;
    const double start_s = now_s();
    interrupt_watch(false);
    progress_begin(&progress);
    int code = lode_synth_write(job->output, &job->options, progress_show, &progress, error);
    progress_end(&progress);
    if (code)
        return code;
    const double seconds = now_s() - start_s;
    char bytes[TEXT_NUMBER_SIZE];
    message_note(command, "%s: %s in %.1f s, %.2f GB/s", job->output, text_bytes(bytes, size->file_bytes),
                 seconds, seconds > 0 ? (double)size->file_bytes * 1e-9 / seconds : 0);
    return LODE_OK;
}

int cmd_synth(int argc, char **argv)
{
    struct synth job = {.options = lode_synth_options_default()};
    struct lode_synth_size size;
    struct lode_error error = {0};
    int code;
    if (!parse(&job, argc, argv, &code))
        return code;
    code = lode_synth_measure(&size, &job.options, &error);
    if (!code && job.dry_run)
        print_size(&size);
    else if (!code)
        code = write_file(&job, &size, &error);
    if (code == LODE_ERR_ARGUMENT)
        return message_usage(command, "%s", error.text);
    return code ? message_failed(command, &error) : EXIT_OK;
}
