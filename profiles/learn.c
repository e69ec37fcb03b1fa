// The rule by which factors move; why it is as it is, learn.h tells.
#include "profiles/learn.h"

#include <math.h>

bool learn_is_enough(enum learn_phase phase, uint64_t tokens, double seconds)
{
    if (phase == LEARN_PREFILL)
        return tokens >= LEARN_PREFILL_TOKENS;
    return tokens >= LEARN_DECODE_TOKENS || (tokens >= 2 && seconds >= LEARN_DECODE_SECONDS);
}

bool learn_is_stalled(double token_ms_p50, double token_ms_p99, uint64_t read_bytes)
{
    return !read_bytes && token_ms_p99 > LEARN_STALLED * token_ms_p50;
}

static double sum(const struct learn_parts *parts)
{
    return parts->kernels_s + parts->attention_s + parts->operations_s + parts->drive_s;
}

void learn_add(struct learn_sample *sample, enum learn_phase phase, const struct learn_parts *measured,
               const struct learn_parts *predicted, const struct profile_learned learned[PROFILE_PARTS])
{
    const bool decode = phase == LEARN_DECODE;
    const struct {
        enum profile_part part;
        double measured_s, predicted_s;
    } parts[] = {
        {decode ? PROFILE_PART_KERNELS_DECODE : PROFILE_PART_KERNELS_PREFILL, measured->kernels_s,
         predicted->kernels_s},
        {decode ? PROFILE_PART_ATTENTION_DECODE : PROFILE_PART_ATTENTION_PREFILL, measured->attention_s,
         predicted->attention_s},
        {PROFILE_PART_OPERATIONS, measured->operations_s, predicted->operations_s},
        {PROFILE_PART_DRIVE, measured->drive_s, predicted->drive_s},
    };
    const double least_measured_s = LEARN_LEAST_SHARE * sum(measured);
    const double least_predicted_s = LEARN_LEAST_SHARE * sum(predicted);
    if (!(least_measured_s > 0 && least_predicted_s > 0)) // false for what is no number
        return;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i].measured_s >= least_measured_s && parts[i].predicted_s >= least_predicted_s) {
            sample->measured_s[parts[i].part] += parts[i].measured_s;
            sample->predicted_s[parts[i].part] += parts[i].predicted_s / learned[parts[i].part].factor;
        }
}

static double bounded(double value, double most)
{
    return fmin(fmax(value, 1 / most), most);
}

uint32_t learn_update(struct profile_learned learned[PROFILE_PARTS], const struct learn_sample *sample)
{
    uint32_t n = 0;
    for (int part = 0; part < PROFILE_PARTS; part++) {
        const double ratio = sample->measured_s[part] / sample->predicted_s[part]; // 0 / 0: nothing is known
        if (!(ratio >= 1 / LEARN_OUTLIER && ratio <= LEARN_OUTLIER))
            continue;
        const double wanted = log(bounded(ratio, PROFILE_LEARNED_MOST)), old = log(learned[part].factor);
        learned[part].factor = bounded(exp(old + LEARN_SHARE * (wanted - old)), PROFILE_LEARNED_MOST);
        learned[part].runs += learned[part].runs < UINT32_MAX;
        n++;
    }
    return n;
}
