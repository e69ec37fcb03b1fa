// The type mixes of llama.cpp's quantiser: files that are named after one K-quant, in which the tensors that
// suffer most from rounding have a larger type. Counted against the published Q4_K_M of 26B-A4B: 192 Q4_K,
// 32 Q5_0, 28 Q8_0 and 14 Q6_K, where rows of 704 and 2112 fall back from Q4_K and Q6_K.
#include "core/synth.h"

#include <strings.h>

struct mix {
    const char *name;
    enum lode_type type;
    uint32_t file_type; // what general.file_type says
};

static const struct mix mixes[SYNTH_MIXES] = {
    [SYNTH_MIX_Q4_K_S] = {"q4_k_s", LODE_Q4_K, 14},
    [SYNTH_MIX_Q4_K_M] = {"q4_k_m", LODE_Q4_K, 15},
    [SYNTH_MIX_Q5_K_M] = {"q5_k_m", LODE_Q5_K, 17},
};

enum synth_mix synth_mix_find(const char *name)
{
    for (int mix = SYNTH_MIX_NONE + 1; mix < SYNTH_MIXES; mix++)
        if (strcasecmp(mixes[mix].name, name) == 0)
            return (enum synth_mix)mix;
    return SYNTH_MIX_NONE;
}

enum lode_type synth_mix_base(enum synth_mix mix)
{
    return mixes[mix].type;
}

uint32_t synth_mix_file_type(enum synth_mix mix)
{
    return mixes[mix].file_type;
}

// The first and the last eighth, and every third of those between.
static bool has_more_bits(uint32_t index, uint32_t count)
{
    const uint32_t eighth = count / 8;
    return index < eighth || index >= 7 * count / 8 || (index - eighth) % 3 == 2;
}

enum lode_type synth_mix_type(enum synth_mix mix, enum synth_role role, uint32_t index, uint32_t count)
{
    switch (mix) {
    case SYNTH_MIX_Q4_K_S: // the first V projections are counted, the first FFNs are a share
        return index < (role == SYNTH_ROLE_V ? 4 : count / 8) ? LODE_Q5_K : LODE_Q4_K;
    case SYNTH_MIX_Q4_K_M:
    case SYNTH_MIX_Q5_K_M:
        return has_more_bits(index, count) ? LODE_Q6_K : mixes[mix].type;
    default:
        return mixes[mix].type;
    }
}
