// The only place that reads XDG_CACHE_HOME.
#include "tools/cache_dir.h"

#include "tools/message.h"
#include "tools/xdg_dir.h"

bool cache_dir_heat(char *buffer, size_t capacity)
{
    static bool told;
    if (xdg_dir_path(buffer, capacity, "XDG_CACHE_HOME", ".cache", "heat"))
        return true;
    if (!told)
        message_note("lode", "the use of experts is not remembered: neither XDG_CACHE_HOME nor HOME is an "
                             "absolute path");
    told = true;
    return false;
}
