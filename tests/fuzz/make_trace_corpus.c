// Writes seeds of traces into the folder that is named: a whole trace, and the records of one.
#include "placement/trace_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <zstd.h>

#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            abort();                                                                                         \
    } while (0)

static void write_trace(const char *path)
{
    struct trace_header header = {.known = TRACE_HAS_ALL, .n_layers = 3};
    header.layers[0] = header.layers[2] = (struct trace_layer){16, 3, 1000};
    struct trace_writer *writer;
    REQUIRE(trace_writer_open(&writer, path, &header, NULL) == 0);
    trace_conversation(writer, "seed", TRACE_PART_FIT);
    for (uint32_t p = 0; p < 3; p++) {
        const uint32_t n = p == 0 ? 3 : 1;
        trace_pass_begin(writer, p ? TRACE_DECODE : TRACE_PREFILL, p ? p + 2 : 0, n, 1000 * p);
        for (uint32_t l = 0; l < 3; l += 2)
            for (uint32_t t = 0; t < n; t++) {
                const int32_t experts[] = {(int32_t)(p + t), (int32_t)(l + t + 5), 15};
                const float weights[] = {0.5f, 0.25f, 0.125f};
                trace_guess(writer, l, t, experts, 3);
                trace_choice(writer, l, t, experts, weights, 3, p, 1000 * p + l);
            }
        trace_read(writer, 0, 3, 1000, TRACE_READ_DEMAND, 1000 * p, 1000 * p + 500);
        trace_pass_end(writer, 900, 10);
    }
    REQUIRE(trace_writer_close(writer, NULL) == 0);
}

// The records of the first block, behind a '!'.
static void write_records(const char *from, const char *to)
{
    static uint8_t bytes[65536], records[65536];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    REQUIRE(in && out && fread(bytes, 1, sizeof bytes, in) > 8);
    const uint8_t *block = bytes + 8 + trace_get_u32(bytes + 4);
    const size_t n =
        ZSTD_decompress(records, sizeof records, block + TRACE_BLOCK_HEADER_BYTES, trace_get_u32(block + 16));
    REQUIRE(!ZSTD_isError(n) && fputc('!', out) == '!' && fwrite(records, 1, n, out) == n);
    fclose(in);
    REQUIRE(fclose(out) == 0);
}

int main(int argc, char **argv)
{
    char trace[1024], records[1024];
    REQUIRE(argc == 2);
    snprintf(trace, sizeof trace, "%s/whole.trace", argv[1]);
    snprintf(records, sizeof records, "%s/records", argv[1]);
    write_trace(trace);
    write_records(trace, records);
    return 0;
}
