// Comparing rows of logits. The softmax is in double, so that a KL of 1e-9 is still a measurement.
#include "tools/divergence.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int check_size(const struct divergence_meter *meter, struct lode_error *error)
{
    struct stat status;
    if (fstat(fileno(meter->file), &status) != 0)
        return lode_fail(error, LODE_ERR_IO, "cannot read %s: %s", meter->path, strerror(errno));
    const uint64_t expected = (uint64_t)meter->n_rows * meter->vocab * sizeof(float);
    if (status.st_size >= 0 && (uint64_t)status.st_size == expected)
        return LODE_OK;
    return lode_fail(
        error, LODE_ERR_FORMAT,
        "%s has %lld bytes, but logits of %zu tokens at a vocabulary of %u take %llu; it belongs to other "
        "tokens or another model",
        meter->path, (long long)status.st_size, meter->n_rows, meter->vocab, (unsigned long long)expected);
}

int divergence_begin(struct divergence_meter *meter, const char *path, size_t n_rows, uint32_t vocab,
                     struct lode_error *error)
{
    *meter = (struct divergence_meter){.path = path, .n_rows = n_rows, .vocab = vocab};
    meter->file = fopen(path, "re");
    if (!meter->file)
        return lode_fail(error, LODE_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    int code = check_size(meter, error);
    if (code)
        return code;
    meter->row = malloc((size_t)vocab * sizeof *meter->row);
    meter->kl = malloc((n_rows + 1) * sizeof *meter->kl);
    return meter->row && meter->kl ? LODE_OK
                                   : lode_fail(error, LODE_ERR_MEMORY, "not enough memory to compare logits");
}

static uint32_t argmax(const float *logits, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static double log_sum_exp(const float *logits, uint32_t count, float max)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += exp((double)logits[i] - (double)max);
    return (double)max + log(sum);
}

int divergence_add(struct divergence_meter *meter, const float *ours, struct lode_error *error)
{
    const uint32_t vocab = meter->vocab;
    const float *reference = meter->row;
    if (fread(meter->row, sizeof *meter->row, vocab, meter->file) != vocab)
        return lode_fail(error, LODE_ERR_IO, "cannot read %s: %s", meter->path,
                         ferror(meter->file) ? strerror(errno) : "it ends too early");
    const uint32_t best = argmax(reference, vocab), our_best = argmax(ours, vocab);
    const double norm = log_sum_exp(reference, vocab, reference[best]);
    const double our_norm = log_sum_exp(ours, vocab, ours[our_best]);
    double kl = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        const double difference = (double)reference[i] - (double)ours[i];
        const double log_p = (double)reference[i] - norm;
        kl += exp(log_p) * (difference - norm + our_norm);
        if (fabs(difference) > meter->max_difference || isnan(difference))
            meter->max_difference = fabs(difference);
    }
    meter->kl[meter->n_done++] = kl;
    meter->n_agreeing += best == our_best;
    return LODE_OK;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct divergence divergence_result(struct divergence_meter *meter)
{
    const size_t count = meter->n_done;
    if (!count)
        return (struct divergence){0};
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += meter->kl[i];
    qsort(meter->kl, count, sizeof *meter->kl, ascending);
    const size_t rank = (size_t)ceil(0.99 * (double)count); // nearest rank, from 1
    return (struct divergence){.kl_mean = sum / (double)count,
                               .kl_p99 = meter->kl[rank - 1],
                               .max_difference = meter->max_difference,
                               .top1_agreement = (double)meter->n_agreeing / (double)count};
}

void divergence_end(struct divergence_meter *meter)
{
    if (meter->file)
        fclose(meter->file);
    free(meter->row);
    free(meter->kl);
    *meter = (struct divergence_meter){0};
}
