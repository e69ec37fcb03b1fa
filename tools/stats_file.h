// The file that --stats names, opened before a long run and written after it: an hour's run must not end in
// "no such directory".
#ifndef LODE_TOOLS_STATS_FILE_H
#define LODE_TOOLS_STATS_FILE_H

#include <stdio.h>

// *out is NULL when there is no path. Both return an exit code and tell of a failure in the name of
// `command`.
int stats_file_open(FILE **out, const char *path, const char *command);

// Closes *file and makes it NULL; `failed` tells that writing to it has failed already.
int stats_file_close(FILE **file, int failed, const char *path, const char *command);

#endif
