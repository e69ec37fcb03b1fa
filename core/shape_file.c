// Writes the header into a memfd. gguf_write.h is not used: it is for files that get their data and their
// name when they are complete, and a vocabulary of 16 MB is not needed here. What the two say about a shape
// is compared by the tests.
#include "core/shape_file.h"

#include "base/checked.h"
#include "core/synth.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ALIGNMENT 32

struct header {
    FILE *stream; // in memory; failures are kept until it is closed
    uint64_t n_pairs;
};

static void put(struct header *header, const void *bytes, size_t size)
{
    fwrite(bytes, 1, size, header->stream);
}

static void put_u32(struct header *header, uint32_t value)
{
    put(header, &value, sizeof value);
}

static void put_u64(struct header *header, uint64_t value)
{
    put(header, &value, sizeof value);
}

static void put_text(struct header *header, const char *text)
{
    put_u64(header, strlen(text));
    put(header, text, strlen(text));
}

static void put_key(struct header *header, const char *key, enum gguf_kind kind)
{
    put_text(header, key);
    put_u32(header, kind);
    header->n_pairs++;
}

static void put_number(struct header *header, const char *key, uint32_t value)
{
    put_key(header, key, GGUF_U32);
    put_u32(header, value);
}

static void put_float(struct header *header, const char *key, float value)
{
    put_key(header, key, GGUF_F32);
    put(header, &value, sizeof value);
}

static void put_string(struct header *header, const char *key, const char *value)
{
    put_key(header, key, GGUF_STRING);
    put_text(header, value);
}

static uint32_t is_local(const struct synth_shape *shape, uint32_t layer)
{
    return !synth_layer_is_global(shape, layer);
}

static void put_by_layer(struct header *header, const char *key, const struct synth_shape *shape,
                         uint32_t (*value_of)(const struct synth_shape *shape, uint32_t layer))
{
    put_key(header, key, GGUF_ARRAY);
    put_u32(header, GGUF_U32);
    put_u64(header, shape->n_layers);
    for (uint32_t l = 0; l < shape->n_layers; l++)
        put_u32(header, value_of(shape, l));
}

// What core/gemma4_hparams.c reads.
static void put_hparams(struct header *header, const struct synth_shape *s)
{
    char name[64];
    snprintf(name, sizeof name, "synthetic %s", s->name);
    put_string(header, "general.architecture", "gemma4");
    put_string(header, "general.name", name);
    put_number(header, "gemma4.block_count", s->n_layers);
    put_number(header, "gemma4.context_length", s->context);
    put_number(header, "gemma4.embedding_length", s->hidden);
    put_by_layer(header, "gemma4.feed_forward_length", s, synth_layer_ffn_width);
    put_number(header, "gemma4.attention.head_count", s->n_heads);
    put_by_layer(header, "gemma4.attention.head_count_kv", s, synth_layer_kv_heads);
    put_number(header, "gemma4.attention.key_length", s->head_size_global);
    put_number(header, "gemma4.attention.key_length_swa", s->head_size_local);
    put_number(header, "gemma4.attention.sliding_window", s->window);
    put_by_layer(header, "gemma4.attention.sliding_window_pattern", s, is_local);
    put_number(header, "gemma4.attention.shared_kv_layers", s->n_shared_kv_layers);
    put_number(header, "gemma4.embedding_length_per_layer_input", s->ple_width);
    put_float(header, "gemma4.rope.freq_base", 1e6f);
    put_float(header, "gemma4.rope.freq_base_swa", 1e4f);
    put_float(header, "gemma4.final_logit_softcapping", 30);
    if (!s->n_experts)
        return;
    put_number(header, "gemma4.expert_count", s->n_experts);
    put_number(header, "gemma4.expert_used_count", s->n_experts_used);
    put_number(header, "gemma4.expert_feed_forward_length", s->expert_width);
}

// Returns the bytes of the data.
static uint64_t put_tensors(struct header *header, const struct synth_model *model)
{
    uint64_t offset = 0;
    for (size_t t = 0; t < model->n_tensors; t++) {
        const struct synth_tensor *tensor = &model->tensors[t];
        uint64_t row_bytes = 0;
        lode_type_row_bytes(&row_bytes, tensor->type, tensor->ne[0]); // the list has whole blocks only
        put_text(header, tensor->name);
        put_u32(header, tensor->n_dims);
        put(header, tensor->ne, tensor->n_dims * sizeof *tensor->ne);
        put_u32(header, tensor->type);
        put_u64(header, offset);
        offset += row_bytes * tensor->ne[1] * tensor->ne[2];
        offset = (offset + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    return offset;
}

// *out is malloc'ed, NULL on failure.
static int make_header(char **out, size_t *out_size, uint64_t *out_data_bytes,
                       const struct synth_model *model, struct lode_error *error)
{
    struct header header = {.stream = open_memstream(out, out_size)};
    if (!header.stream)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the header of a shape");
    put(&header, "GGUF", 4);
    put_u32(&header, 3);
    put_u64(&header, model->n_tensors);
    put_u64(&header, 0); // pairs, below
    put_hparams(&header, &model->shape);
    *out_data_bytes = put_tensors(&header, model);
    const bool failed = ferror(header.stream);
    if (fclose(header.stream) != 0 || failed) {
        free(*out);
        *out = NULL;
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the header of a shape");
    }
    memcpy(*out + 16, &header.n_pairs, sizeof header.n_pairs);
    return 0;
}

static int fill(struct shape_file *file, const char *header, size_t size, uint64_t data_bytes,
                struct lode_error *error)
{
    uint64_t total_bytes = 0;
    if (!checked_align(&total_bytes, size, ALIGNMENT) || !checked_add(&total_bytes, total_bytes, data_bytes))
        return lode_fail(error, LODE_ERR_ARGUMENT, "the shape is larger than any file");
    file->fd = memfd_create("lode-shape", MFD_CLOEXEC);
    if (file->fd < 0)
        return lode_fail(error, LODE_ERR_IO, "no file in memory for a shape: %s", strerror(errno));
    for (size_t done = 0; done < size;) {
        const ssize_t written = write(file->fd, header + done, size - done);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return lode_fail(error, LODE_ERR_IO, "cannot write the header of a shape: %s", strerror(errno));
        done += (size_t)written;
    }
    if (ftruncate(file->fd, (off_t)total_bytes) != 0)
        return lode_fail(error, LODE_ERR_IO, "cannot make a file in memory as long as the shape: %s",
                         strerror(errno));
    snprintf(file->path, sizeof file->path, "/proc/self/fd/%d", file->fd);
    return 0;
}

int shape_file_open(struct shape_file *out, const struct lode_synth_options *options,
                    struct lode_error *error)
{
    *out = (struct shape_file){.fd = -1};
    struct synth_model model;
    int rc = synth_model_make(&model, options, error);
    if (rc)
        return rc;
    char *header = NULL;
    size_t size = 0;
    uint64_t data_bytes = 0;
    rc = make_header(&header, &size, &data_bytes, &model, error);
    synth_model_free(&model);
    if (!rc)
        rc = fill(out, header, size, data_bytes, error);
    free(header);
    if (rc)
        shape_file_close(out);
    return rc;
}

void shape_file_close(struct shape_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}
