// Ctrl-C and SIGTERM as a flag that the long calls look at between two steps.
//
// Ctrl-C stops what is going on; a chat on a terminal lives on after it. SIGTERM ends the program in every
// case, only tidily.
#ifndef LODE_TOOLS_INTERRUPT_H
#define LODE_TOOLS_INTERRUPT_H

#include <stdbool.h>

// Catches SIGINT and SIGTERM from now on. With `second_kills` the next one after the first ends the program
// at once, which is the way out of a step that takes too long; a second SIGTERM always does.
void interrupt_watch(bool second_kills);

bool interrupt_pending(void);
bool interrupt_is_final(void); // SIGTERM came: the program shall end
int interrupt_exit_code(void); // as a shell reports the signal: 143 after SIGTERM, else 130

// Waits until the file can be read (or is at its end, or broken: reading tells). False: a signal came first.
// Without interrupt_watch it only waits for the file.
bool interrupt_wait_readable(int fd);

void interrupt_clear(void); // forgets Ctrl-C, not SIGTERM

#endif
