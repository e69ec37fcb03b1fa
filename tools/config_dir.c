// The only place that reads XDG_CONFIG_HOME.
#include "tools/config_dir.h"

#include "tools/xdg_dir.h"

bool config_dir_profile(char *buffer, size_t capacity)
{
    return xdg_dir_path(buffer, capacity, "XDG_CONFIG_HOME", ".config", "machine.json");
}
