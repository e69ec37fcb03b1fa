// FNV-1a over what fingerprint.h lists. The hash need not withstand an adversary: who can change a model's
// bytes gains nothing by a heat file that does not fit.
#include "core/fingerprint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum { SAMPLE_BYTES = 4096, SAMPLES = 64 };

// ---- the hash
// ------------------------------------------------------------------------------------------------

static void add_bytes(uint64_t *hash, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        *hash = (*hash ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3u;
}

static void add_number(uint64_t *hash, uint64_t value)
{
    add_bytes(hash, &value, sizeof value);
}

static void add_text(uint64_t *hash, const char *text, size_t len)
{
    add_number(hash, len); // so that "ab", "c" is not "a", "bc"
    add_bytes(hash, text, len);
}

// ---- the header
// ----------------------------------------------------------------------------------------------

static void add_value(uint64_t *hash, const struct gguf_value *value)
{
    add_number(hash, gguf_value_count(value));
    for (size_t i = 0; i < gguf_value_count(value); i++) {
        struct gguf_string text;
        int64_t integer;
        double real;
        if (gguf_value_string(value, i, &text))
            add_text(hash, text.data, text.len);
        else if (gguf_value_i64(value, i, &integer))
            add_number(hash, (uint64_t)integer);
        else if (gguf_value_f64(value, i, &real))
            add_bytes(hash, &real, sizeof real);
    }
}

// The keys "ARCHITECTURE.…": what the vocabulary or the licence says changes nothing about experts.
static void add_hyperparameters(uint64_t *hash, const struct gguf *gguf)
{
    struct gguf_string architecture;
    if (!gguf_value_string(gguf_find(gguf, "general.architecture"), 0, &architecture))
        return;
    add_text(hash, architecture.data, architecture.len);
    for (size_t i = 0; i < gguf_key_count(gguf); i++) {
        const struct gguf_value *value;
        const struct gguf_string key = gguf_key_at(gguf, i, &value);
        if (key.len <= architecture.len || key.data[architecture.len] != '.' ||
            memcmp(key.data, architecture.data, architecture.len) != 0)
            continue;
        add_text(hash, key.data, key.len);
        add_value(hash, value);
    }
}

static void add_tensors(uint64_t *hash, const struct gguf *gguf)
{
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        add_text(hash, tensor->name, strlen(tensor->name));
        add_number(hash, tensor->type);
        add_number(hash, tensor->n_dims);
        for (uint32_t d = 0; d < GGUF_MAX_DIMS; d++)
            add_number(hash, tensor->ne[d]);
        add_number(hash, tensor->size_bytes);
    }
}

// ---- the data
// ------------------------------------------------------------------------------------------------

// The file that was read last stays open: places ascend, and so mostly do the files.
struct reader {
    const struct gguf *gguf;
    uint32_t file;
    int fd; // -1: none
};

static int reader_open(struct reader *reader, uint32_t file, struct lode_error *error)
{
    if (reader->fd >= 0 && reader->file == file)
        return 0;
    if (reader->fd >= 0)
        close(reader->fd);
    const char *path = gguf_file_path(reader->gguf, file);
    reader->file = file;
    reader->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (reader->fd < 0)
        return lode_fail(error, LODE_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    // Else the kernel reads 128 KiB or more around each place, 8 MB in all.
    (void)posix_fadvise(reader->fd, 0, 0, POSIX_FADV_RANDOM);
    return 0;
}

static int add_sample(uint64_t *hash, struct reader *reader, const struct gguf_tensor *tensor,
                      uint64_t at_bytes, struct lode_error *error)
{
    uint8_t sample[SAMPLE_BYTES];
    const uint64_t left_bytes = tensor->size_bytes - at_bytes;
    const size_t n = left_bytes < SAMPLE_BYTES ? (size_t)left_bytes : SAMPLE_BYTES;
    const uint64_t offset_bytes = tensor->offset_bytes + at_bytes;
    int rc = reader_open(reader, tensor->file, error);
    for (size_t done = 0; !rc && done < n;) {
        ssize_t got = pread(reader->fd, sample + done, n - done, (off_t)(offset_bytes + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            rc = lode_fail(error, LODE_ERR_IO, "cannot read %s at offset %" PRIu64 ": %s",
                           gguf_file_path(reader->gguf, tensor->file), offset_bytes + done,
                           got < 0 ? strerror(errno) : "it has become shorter");
        else
            done += (size_t)got;
    }
    if (!rc)
        add_bytes(hash, sample, n);
    return rc;
}

// Places are counted in the data of all tensors, one after the other, and not in files, whose padding and
// number are no part of the model.
static int add_samples(uint64_t *hash, const struct gguf *gguf, struct lode_error *error)
{
    uint64_t total_bytes = 0; // cannot overflow: each tensor lies in a file
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++)
        total_bytes += gguf_tensor_at(gguf, i)->size_bytes;
    const uint64_t last_bytes = total_bytes > SAMPLE_BYTES ? total_bytes - SAMPLE_BYTES : 0;
    struct reader reader = {.gguf = gguf, .fd = -1};
    uint64_t begin_bytes = 0; // of the tensor
    uint32_t sample = 0;
    int rc = 0;
    for (size_t i = 0; !rc && i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        const uint64_t end_bytes = begin_bytes + tensor->size_bytes;
        for (; !rc && sample < SAMPLES; sample++) {
            const uint64_t place_bytes = (uint64_t)((unsigned __int128)last_bytes * sample / (SAMPLES - 1));
            if (place_bytes >= end_bytes)
                break;
            rc = add_sample(hash, &reader, tensor, place_bytes - begin_bytes, error);
        }
        begin_bytes = end_bytes;
    }
    if (reader.fd >= 0)
        close(reader.fd);
    return rc;
}

int fingerprint_model(uint64_t *out, const struct gguf *gguf, struct lode_error *error)
{
    uint64_t hash = 0xcbf29ce484222325u;
    add_hyperparameters(&hash, gguf);
    add_tensors(&hash, gguf);
    int rc = add_samples(&hash, gguf, error);
    if (!rc)
        *out = hash;
    return rc;
}
