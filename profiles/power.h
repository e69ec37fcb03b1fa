// Whether this machine runs on its battery: processors are slower then.
#ifndef LODE_POWER_H
#define LODE_POWER_H

#include <stdbool.h>

// `root` is the directory under which sys is found: "/", or a captured tree. False where nothing tells.
bool power_on_battery(const char *root);

#endif
