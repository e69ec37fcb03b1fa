// The program `lode`: finds the subcommand, and sees to it that what went to stdout really arrived there.
#include "tools/command.h"
#include "tools/message.h"
#include "tools/options.h"

#include "core/lode.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
};

static const struct subcommand subcommands[] = {
    {"run", cmd_run},           {"chat", cmd_chat},   {"info", cmd_info},   {"devices", cmd_devices},
    {"heat", cmd_heat},         {"probe", cmd_probe}, {"plan", cmd_plan},   {"tune", cmd_tune},
    {"tokenize", cmd_tokenize}, {"eval", cmd_eval},   {"bench", cmd_bench}, {"synth", cmd_synth},
    {"trace", cmd_trace},       {"sim", cmd_sim},
};
enum { N_SUBCOMMANDS = sizeof subcommands / sizeof *subcommands };

static const char usage[] =
    "Usage: lode SUBCOMMAND [OPTION]...\n"
    "\n"
    "Runs Gemma 4 models from GGUF files.\n"
    "\n"
    "  run        complete a prompt\n"
    "  chat       talk with a model, turn by turn\n"
    "  info       show what a model file holds\n"
    "  devices    list the GPUs that there are, and why others cannot be used\n"
    "  heat       show which experts earlier runs have chosen most\n"
    "  probe      measure the machine, for planning\n"
    "  plan       say how fast a model would be on a machine, and what lies where\n"
    "  tune       find the settings that are fastest on this machine, and keep them\n"
    "  tokenize   text to token ids, and back\n"
    "  eval       measure perplexity, write or compare logits\n"
    "  bench      measure prefill and decode speed\n"
    "  synth      write a model file of a real shape with random weights\n"
    "  trace      show, merge and convert recorded routing of experts\n"
    "  sim        simulate policies and guesses over recorded routing\n"
    "\n"
    "  lode help SUBCOMMAND, lode SUBCOMMAND --help     one page about a subcommand\n"
    "  lode --version                                   the version\n"
    "\n"
    "Results go to stdout, everything else to stderr. Without -m the model is $LODE_MODEL, or\n"
    "else the small demo model that comes with the program.\n"
    "Exit: 0 done, 1 failed, 2 usage, 130 interrupted, 143 terminated.\n"
    "\n"
    "Examples:\n"
    "  lode run -p 'Once upon a time' -n 100\n"
    "  lode chat -m gemma-4-26B-A4B-it-Q4_0.gguf\n";

static const struct subcommand *subcommand_find(const char *name)
{
    for (size_t i = 0; i < N_SUBCOMMANDS; i++)
        if (strcmp(subcommands[i].name, name) == 0)
            return &subcommands[i];
    return NULL;
}

static int subcommand_unknown(const char *name)
{
    const char *names[N_SUBCOMMANDS];
    for (size_t i = 0; i < N_SUBCOMMANDS; i++)
        names[i] = subcommands[i].name;
    const char *closest = options_closest(name, names, N_SUBCOMMANDS);
    if (closest)
        return message_usage("lode", "unknown subcommand '%s'; did you mean '%s'?", name, closest);
    return message_usage("lode", "unknown subcommand '%s'", name);
}

static int help(const char *name)
{
    if (!name) {
        fputs(usage, stdout);
        return EXIT_OK;
    }
    const struct subcommand *subcommand = subcommand_find(name);
    if (!subcommand)
        return subcommand_unknown(name);
    char *argv[] = {(char *)name, (char *)"--help", NULL};
    return subcommand->run(2, argv);
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        fputs(usage, stderr);
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("lode %s\n", lode_version());
        return EXIT_OK;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
        return help(argc > 2 ? argv[2] : NULL);
    if (name[0] == '-')
        return message_usage("lode", "unknown option '%s'; options follow the subcommand", name);
    const struct subcommand *subcommand = subcommand_find(name);
    return subcommand ? subcommand->run(argc - 1, argv + 1) : subcommand_unknown(name);
}

// A standard stream that the caller closed would be given to the next file opened, and the text would land in
// it. The placeholder is opened the wrong way round, so that using it fails and is noticed.
static void occupy_closed_streams(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            if (open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) < 0)
                return;
}

static int finish_stdout(int code)
{
    errno = 0;
    int failed = ferror(stdout);
    if (fflush(stdout) != 0)
        failed = 1;
    int reason = errno;
    if (!failed)
        return code;
    if (reason)
        message_note("lode", "cannot write the output: %s", strerror(reason));
    else
        message_note("lode", "cannot write the output");
    return code == EXIT_OK ? EXIT_FAILED : code;
}

int main(int argc, char **argv)
{
    occupy_closed_streams();
    signal(SIGPIPE, SIG_DFL); // a reader that has enough ends us quietly, whatever our parent chose to ignore
    return finish_stdout(dispatch(argc, argv));
}
