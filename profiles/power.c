// Reads sys/class/power_supply: a battery that discharges while no mains are there. Batteries of mice and
// headsets have the scope "Device" and say nothing of the machine.
#include "profiles/power.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

#define WORD 32

static bool read_word(char out[WORD], const char *folder, const char *supply, const char *file)
{
    char path[4096];
    const int len = snprintf(path, sizeof path, "%s/%s/%s", folder, supply, file);
    if (len < 0 || (size_t)len >= sizeof path)
        return false;
    FILE *stream = fopen(path, "re");
    const bool ok = stream && fgets(out, WORD, stream);
    if (stream)
        fclose(stream);
    if (ok)
        out[strcspn(out, "\n")] = '\0';
    return ok;
}

bool power_on_battery(const char *root)
{
    char folder[4000];
    const int len = snprintf(folder, sizeof folder, "%s/sys/class/power_supply", root);
    DIR *dir = len > 0 && (size_t)len < sizeof folder ? opendir(folder) : NULL;
    if (!dir)
        return false;
    bool discharging = false, mains = false;
    const struct dirent *entry;
    while ((entry = readdir(dir))) {
        char type[WORD], word[WORD];
        if (entry->d_name[0] == '.' || !read_word(type, folder, entry->d_name, "type"))
            continue;
        if (strcmp(type, "Battery") == 0) {
            const bool of_device =
                read_word(word, folder, entry->d_name, "scope") && strcmp(word, "Device") == 0;
            discharging = discharging || (!of_device && read_word(word, folder, entry->d_name, "status") &&
                                          strcmp(word, "Discharging") == 0);
        } else {
            mains = mains || (read_word(word, folder, entry->d_name, "online") && strcmp(word, "1") == 0);
        }
    }
    closedir(dir);
    return discharging && !mains;
}
