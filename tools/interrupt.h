// Ctrl-C as a flag that the long calls look at between two steps.
#ifndef LODE_TOOLS_INTERRUPT_H
#define LODE_TOOLS_INTERRUPT_H

#include <stdbool.h>

// Catches SIGINT from now on. With `second_kills` the next one after the first ends the program at once,
// which is the way out of a step that takes too long.
void interrupt_watch(bool second_kills);

bool interrupt_pending(void);

// Waits until the file can be read (or is at its end, or broken: reading tells). False: Ctrl-C came first.
// Without interrupt_watch it only waits for the file.
bool interrupt_wait_readable(int fd);
void interrupt_clear(void);

#endif
