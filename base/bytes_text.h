// Sizes as people read them: "1.29 GiB", "70.0 MiB", "512 bytes".
#ifndef LODE_BYTES_TEXT_H
#define LODE_BYTES_TEXT_H

#include <stdint.h>
#include <stdio.h>

struct bytes_text {
    char text[24];
};

// For the arguments of a printf: bytes_text(n).text lives as long as the full expression.
static inline struct bytes_text bytes_text(uint64_t bytes)
{
    struct bytes_text out;
    if (bytes >= (uint64_t)1 << 30)
        snprintf(out.text, sizeof out.text, "%.2f GiB", (double)bytes / (1 << 30));
    else if (bytes >= (uint64_t)1 << 20)
        snprintf(out.text, sizeof out.text, "%.1f MiB", (double)bytes / (1 << 20));
    else
        snprintf(out.text, sizeof out.text, "%u bytes", (unsigned)bytes);
    return out;
}

#endif
