// The means in memory, and the file:
//
//     magic "LODEHEAT", u32 version, u32 n_layers, u32 n_units, u32 0, u64 fingerprint, u64 n_tokens,
//     n_layers u64 tokens that reached the layer, n_units f32 means, u64 FNV-1a of all bytes before
//
// all little-endian. A file is data from strangers: it counts only when its size, sum and every value are
// right.
#include "placement/heat.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "heat files are written as they lie in memory");

#define VERSION 1u
#define MAX_UNITS                                                                                            \
    (1u << 22) // a thousand times what a model has; bounds what a broken file can make us allocate

static const char magic[8] = {'L', 'O', 'D', 'E', 'H', 'E', 'A', 'T'};

struct header {
    char magic[8];
    uint32_t version, n_layers, n_units, zero;
    uint64_t fingerprint, n_tokens;
};
_Static_assert(sizeof(struct header) == 40, "the header has no padding");

// ---- in memory
// -----------------------------------------------------------------------------------------------

int heat_open(struct heat *out, uint32_t n_layers, uint32_t n_units, uint64_t fingerprint,
              struct lode_error *error)
{
    assert(n_layers > 0 && n_units > 0 && n_units % n_layers == 0);
    *out = (struct heat){.n_layers = n_layers, .n_units = n_units, .fingerprint = fingerprint};
    if (n_units > MAX_UNITS)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "%u experts are more than heat is kept of (%u)",
                         n_units, MAX_UNITS);
    out->layer_tokens = calloc(n_layers, sizeof *out->layer_tokens);
    out->mean = calloc(n_units, sizeof *out->mean);
    out->counted = calloc(n_units, sizeof *out->counted);
    if (out->layer_tokens && out->mean && out->counted)
        return 0;
    heat_close(out);
    return lode_fail(error, LODE_ERR_MEMORY, "no memory for the heat of %u experts", n_units);
}

void heat_close(struct heat *heat)
{
    free(heat->layer_tokens);
    free(heat->mean);
    free(heat->counted);
    *heat = (struct heat){0};
}

void heat_count(struct heat *heat, uint32_t unit, uint32_t n_tokens)
{
    if (__builtin_add_overflow(heat->counted[unit], n_tokens, &heat->counted[unit]))
        heat->counted[unit] = UINT32_MAX;
}

// A pass that was given up leaves counts without tokens, so a unit's may exceed those of the pass.
static uint32_t pass_count(const struct heat *heat, uint32_t unit, uint32_t n_tokens)
{
    return heat->counted[unit] < n_tokens ? heat->counted[unit] : n_tokens;
}

static uint64_t layer_count(const struct heat *heat, uint32_t layer, uint32_t n_tokens)
{
    const uint32_t n = heat->n_units / heat->n_layers;
    uint64_t count = 0;
    for (uint32_t u = layer * n; u < (layer + 1) * n; u++)
        count += pass_count(heat, u, n_tokens);
    return count;
}

static void add_tokens(uint64_t *count, uint64_t n_tokens)
{
    if (__builtin_add_overflow(*count, n_tokens, count))
        *count = UINT64_MAX;
}

// `tokens`: those of the pass that reached the layer.
static void move_layer(struct heat *heat, uint32_t layer, uint32_t n_tokens, uint32_t tokens)
{
    const uint32_t n = heat->n_units / heat->n_layers;
    add_tokens(&heat->layer_tokens[layer], tokens);
    const uint64_t seen = heat->layer_tokens[layer];
    const uint64_t span = seen < HEAT_TOKENS ? seen : HEAT_TOKENS;
    const float share = tokens < span ? (float)tokens / (float)span : 1;
    for (uint32_t u = layer * n; u < (layer + 1) * n; u++) {
        const uint32_t count = pass_count(heat, u, n_tokens);
        const float rate = count < tokens ? (float)count / (float)tokens : 1;
        heat->mean[u] += share * (rate - heat->mean[u]);
    }
}

// The last layer of a model may see fewer tokens of a prompt than the others: only those whose logits are
// wanted. Tokens choose equally many units in each layer, so a layer's choices tell how many it saw; else a
// long prompt would leave that layer cold.
void heat_pass_end(struct heat *heat, uint32_t n_tokens)
{
    if (n_tokens == 0)
        return;
    add_tokens(&heat->n_tokens, n_tokens);
    uint64_t most = 0;
    for (uint32_t l = 0; l < heat->n_layers; l++) {
        const uint64_t count = layer_count(heat, l, n_tokens);
        most = count > most ? count : most;
    }
    for (uint32_t l = 0; l < heat->n_layers; l++) {
        const uint64_t count = layer_count(heat, l, n_tokens);
        if (count == 0)
            continue;
        const double tokens = ceil((double)n_tokens * (double)count / (double)most);
        move_layer(heat, l, n_tokens, tokens < n_tokens ? (uint32_t)tokens : n_tokens);
    }
    memset(heat->counted, 0, heat->n_units * sizeof *heat->counted);
}

// ---- bytes
// ---------------------------------------------------------------------------------------------------

static uint64_t fnv1a(const uint8_t *bytes, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

static size_t file_bytes(uint32_t n_layers, uint32_t n_units)
{
    return sizeof(struct header) + n_layers * sizeof(uint64_t) + n_units * sizeof(float) + sizeof(uint64_t);
}

// The whole file, for the caller to free; NULL without memory.
static uint8_t *encode(const struct heat *heat, size_t *out_bytes)
{
    struct header header = {.version = VERSION,
                            .n_layers = heat->n_layers,
                            .n_units = heat->n_units,
                            .fingerprint = heat->fingerprint,
                            .n_tokens = heat->n_tokens};
    memcpy(header.magic, magic, sizeof magic);
    *out_bytes = file_bytes(heat->n_layers, heat->n_units);
    const size_t summed_bytes = *out_bytes - sizeof(uint64_t);
    uint8_t *bytes = malloc(*out_bytes);
    if (!bytes)
        return NULL;
    memcpy(bytes, &header, sizeof header);
    const size_t layers_bytes = heat->n_layers * sizeof *heat->layer_tokens;
    memcpy(bytes + sizeof header, heat->layer_tokens, layers_bytes);
    memcpy(bytes + sizeof header + layers_bytes, heat->mean, heat->n_units * sizeof *heat->mean);
    const uint64_t sum = fnv1a(bytes, summed_bytes);
    memcpy(bytes + summed_bytes, &sum, sizeof sum);
    return bytes;
}

static int reject(const char *path, struct lode_error *error, const char *why)
{
    return lode_fail(error, LODE_ERR_FORMAT, "%s is no usable heat file: %s. It may be removed", path, why);
}

static int check_header(const struct header *header, uint64_t size_bytes, const char *path,
                        struct lode_error *error)
{
    if (memcmp(header->magic, magic, sizeof magic) != 0)
        return reject(path, error, "it does not begin as one");
    if (header->version != VERSION)
        return reject(path, error, "it is of another version of this program");
    if (header->n_layers == 0 || header->n_units == 0 || header->n_units > MAX_UNITS ||
        header->n_units % header->n_layers != 0 || header->zero != 0)
        return reject(path, error, "its counts make no sense");
    if (size_bytes != file_bytes(header->n_layers, header->n_units))
        return reject(path, error, "its length is not what it announces");
    return 0;
}

static const char *find_wrong_value(const struct heat *heat)
{
    for (uint32_t l = 0; l < heat->n_layers; l++)
        if (heat->layer_tokens[l] > heat->n_tokens)
            return "its counts make no sense";
    for (uint32_t u = 0; u < heat->n_units; u++)
        if (!(heat->mean[u] >= 0 && heat->mean[u] <= 1)) // NaN too
            return "it holds a mean that is not between 0 and 1";
    return NULL;
}

static int decode(struct heat *out, const uint8_t *bytes, size_t size_bytes, const char *path,
                  struct lode_error *error)
{
    struct header header;
    memcpy(&header, bytes, sizeof header);
    int rc = check_header(&header, size_bytes, path, error);
    if (rc)
        return rc;
    uint64_t sum;
    memcpy(&sum, bytes + size_bytes - sizeof sum, sizeof sum);
    if (sum != fnv1a(bytes, size_bytes - sizeof sum))
        return reject(path, error, "its check sum is wrong");
    rc = heat_open(out, header.n_layers, header.n_units, header.fingerprint, error);
    if (rc)
        return rc;
    const size_t layers_bytes = header.n_layers * sizeof *out->layer_tokens;
    out->n_tokens = header.n_tokens;
    memcpy(out->layer_tokens, bytes + sizeof header, layers_bytes);
    memcpy(out->mean, bytes + sizeof header + layers_bytes, header.n_units * sizeof *out->mean);
    const char *wrong = find_wrong_value(out);
    if (!wrong)
        return 0;
    heat_close(out);
    return reject(path, error, wrong);
}

// ---- reading
// -------------------------------------------------------------------------------------------------

static int fail_io(struct lode_error *error, const char *what, const char *path, int reason)
{
    return lode_fail(error, LODE_ERR_IO, "cannot %s %s: %s", what, path, strerror(reason));
}

static int read_all(int fd, uint8_t *out, size_t size_bytes, const char *path, struct lode_error *error)
{
    for (size_t done = 0; done < size_bytes;) {
        ssize_t got = pread(fd, out + done, size_bytes - done, (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_io(error, "read", path, errno);
        if (got == 0)
            return reject(path, error, "it became shorter while it was read");
        done += (size_t)got;
    }
    return 0;
}

static int inspect_open_file(struct heat *out, int fd, const char *path, struct lode_error *error)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return fail_io(error, "read", path, errno);
    if (!S_ISREG(status.st_mode))
        return reject(path, error, "it is no regular file");
    if (status.st_size < (off_t)file_bytes(1, 1))
        return reject(path, error, "it is too short");
    if (status.st_size > (off_t)file_bytes(MAX_UNITS, MAX_UNITS))
        return reject(path, error, "it is too long");
    const size_t size_bytes = (size_t)status.st_size;
    uint8_t *bytes = malloc(size_bytes);
    if (!bytes)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to read %s", path);
    int rc = read_all(fd, bytes, size_bytes, path, error);
    if (!rc)
        rc = decode(out, bytes, size_bytes, path, error);
    free(bytes);
    return rc;
}

int heat_inspect(struct heat *out, const char *path, struct lode_error *error)
{
    *out = (struct heat){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // of a pipe nobody may ever write to
    if (fd < 0)
        return errno == ENOENT ? 0 : fail_io(error, "open", path, errno);
    int rc = inspect_open_file(out, fd, path, error);
    close(fd);
    return rc;
}

int heat_read(struct heat *heat, const char *path, struct lode_error *error)
{
    struct heat found;
    int rc = heat_inspect(&found, path, error);
    if (rc || !found.mean)
        return rc;
    if (found.fingerprint != heat->fingerprint)
        rc = lode_fail(error, LODE_ERR_ARGUMENT,
                       "%s is of another model: its fingerprint is %016" PRIx64 ", the model's %016" PRIx64,
                       path, found.fingerprint, heat->fingerprint);
    else if (found.n_layers != heat->n_layers || found.n_units != heat->n_units)
        rc = lode_fail(error, LODE_ERR_ARGUMENT,
                       "%s is of another shape: %u experts in %u layers instead of %u in %u", path,
                       found.n_units, found.n_layers, heat->n_units, heat->n_layers);
    if (!rc) {
        memcpy(heat->layer_tokens, found.layer_tokens, heat->n_layers * sizeof *heat->layer_tokens);
        memcpy(heat->mean, found.mean, heat->n_units * sizeof *heat->mean);
        heat->n_tokens = found.n_tokens;
    }
    heat_close(&found);
    return rc;
}

// ---- writing
// -------------------------------------------------------------------------------------------------

bool heat_file_path(char *buffer, size_t capacity, const char *dir, uint64_t fingerprint)
{
    int len = snprintf(buffer, capacity, "%s/%016" PRIx64 ".heat", dir, fingerprint);
    return len > 0 && (size_t)len < capacity;
}

// One name for each model, so that the next writer meets what a killed one left.
static bool temporary_path(char out[PATH_MAX], const char *path)
{
    int len = snprintf(out, PATH_MAX, "%s.tmp", path);
    return len > 0 && len < PATH_MAX;
}

static int fail_long_path(struct lode_error *error, const char *path)
{
    return lode_fail(error, LODE_ERR_ARGUMENT, "the path %.200s… is too long", path);
}

// Folders are for their owner alone: what was asked shows in which experts were chosen.
static int make_folders(const char *path, struct lode_error *error)
{
    char folder[PATH_MAX];
    const size_t len = strlen(path);
    if (len >= sizeof folder)
        return fail_long_path(error, path);
    memcpy(folder, path, len + 1);
    for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(folder, 0700) != 0 && errno != EEXIST)
            return fail_io(error, "make the folder", folder, errno);
        *slash = '/';
    }
    return 0;
}

static bool is_same_file(int fd, const char *path)
{
    struct stat ours, named;
    return fstat(fd, &ours) == 0 && lstat(path, &named) == 0 && ours.st_dev == named.st_dev &&
           ours.st_ino == named.st_ino;
}

// Opens the temporary file and locks it. A lock ends with its process, so what a killed writer left is free.
// *out is -1 when another process is writing. File systems without locks are trusted to have one writer.
static int open_temporary(int *out, const char *temporary, struct lode_error *error)
{
    for (;;) {
        *out = open(temporary, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
        if (*out < 0)
            return fail_io(error, "write", temporary, errno);
        const bool locked_by_another = flock(*out, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
        if (!locked_by_another && is_same_file(*out, temporary))
            return 0;
        close(*out);
        *out = -1;
        if (locked_by_another)
            return 0;
        // The other writer gave the file its final name between our two calls: it is not ours to change.
    }
}

static int write_all(int fd, const uint8_t *bytes, size_t n)
{
    while (n) {
        ssize_t written = write(fd, bytes, n);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return -1;
        bytes += written;
        n -= (size_t)written;
    }
    return 0;
}

// A rename is on the disk when its folder is; that it is not there yet costs nothing but the news.
static void sync_folder(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    int fd = open(folder[0] ? folder : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)fsync(fd);
    close(fd);
}

static int write_file(const char *path, const char *temporary, const uint8_t *bytes, size_t size_bytes,
                      struct lode_error *error)
{
    int fd;
    int rc = open_temporary(&fd, temporary, error);
    if (rc || fd < 0)
        return rc;
    if (ftruncate(fd, 0) != 0 || write_all(fd, bytes, size_bytes) != 0 || fsync(fd) != 0 ||
        rename(temporary, path) != 0) {
        rc = fail_io(error, "write", path, errno);
        unlink(temporary);
    }
    close(fd);
    if (!rc)
        sync_folder(path);
    return rc;
}

int heat_write(const struct heat *heat, const char *path, struct lode_error *error)
{
    char temporary[PATH_MAX];
    if (!temporary_path(temporary, path))
        return fail_long_path(error, path);
    int rc = make_folders(path, error);
    if (rc)
        return rc;
    size_t size_bytes;
    uint8_t *bytes = encode(heat, &size_bytes);
    if (!bytes)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to write %s", path);
    rc = write_file(path, temporary, bytes, size_bytes, error);
    free(bytes);
    return rc;
}

int heat_remove(bool *out_removed, const char *path, struct lode_error *error)
{
    *out_removed = false;
    char temporary[PATH_MAX];
    if (!temporary_path(temporary, path))
        return fail_long_path(error, path);
    unlink(temporary);
    if (unlink(path) == 0)
        *out_removed = true;
    else if (errno != ENOENT)
        return fail_io(error, "remove", path, errno);
    return 0;
}
