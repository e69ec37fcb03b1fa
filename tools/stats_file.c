// Opening and closing the file of --stats.
#include "tools/stats_file.h"

#include "tools/command.h"
#include "tools/message.h"

#include <errno.h>
#include <string.h>

static int tell_failure(const char *path, const char *command)
{
    message_note(command, "cannot write %s: %s", path, strerror(errno));
    return EXIT_FAILED;
}

int stats_file_open(FILE **out, const char *path, const char *command)
{
    *out = path ? fopen(path, "we") : NULL;
    return path && !*out ? tell_failure(path, command) : EXIT_OK;
}

int stats_file_close(FILE **file, int failed, const char *path, const char *command)
{
    if (fclose(*file) != 0)
        failed = 1;
    *file = NULL;
    return failed ? tell_failure(path, command) : EXIT_OK;
}
