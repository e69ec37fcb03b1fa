#include "base/tensor_type.h"

#include "base/checked.h"

#include <stddef.h>

static const struct lode_type_traits traits[LODE_TYPE_END] = {
    [LODE_F32] = {"F32", 1, 4},           [LODE_F16] = {"F16", 1, 2},
    [LODE_BF16] = {"BF16", 1, 2},         [LODE_Q4_0] = {"Q4_0", 32, 18},
    [LODE_Q4_1] = {"Q4_1", 32, 20},       [LODE_Q5_0] = {"Q5_0", 32, 22},
    [LODE_Q5_1] = {"Q5_1", 32, 24},       [LODE_Q8_0] = {"Q8_0", 32, 34},
    [LODE_Q2_K] = {"Q2_K", 256, 84},      [LODE_Q3_K] = {"Q3_K", 256, 110},
    [LODE_Q4_K] = {"Q4_K", 256, 144},     [LODE_Q5_K] = {"Q5_K", 256, 176},
    [LODE_Q6_K] = {"Q6_K", 256, 210},     [LODE_IQ4_NL] = {"IQ4_NL", 32, 18},
    [LODE_IQ4_XS] = {"IQ4_XS", 256, 136}, [LODE_MXFP4] = {"MXFP4", 32, 17},
};

// Types of GGUF files that are not run, named so that an error can say what a file holds.
static const char *const foreign_names[] = {
    [9] = "Q8_1",   [15] = "Q8_K",  [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS",
    [19] = "IQ1_S", [21] = "IQ3_S", [22] = "IQ2_S",   [24] = "I8",     [25] = "I16",
    [26] = "I32",   [27] = "I64",   [28] = "F64",     [29] = "IQ1_M",  [34] = "TQ1_0",
    [35] = "TQ2_0", [40] = "NVFP4", [41] = "Q1_0",    [42] = "Q2_0",
};

const struct lode_type_traits *lode_type_find(uint32_t type)
{
    return type < LODE_TYPE_END && traits[type].name ? &traits[type] : NULL;
}

const char *lode_type_name(uint32_t type)
{
    const struct lode_type_traits *found = lode_type_find(type);
    if (found)
        return found->name;
    if (type < sizeof foreign_names / sizeof *foreign_names && foreign_names[type])
        return foreign_names[type];
    return "unknown";
}

bool lode_type_row_bytes(uint64_t *out_bytes, uint32_t type, uint64_t n_elems)
{
    const struct lode_type_traits *found = lode_type_find(type);
    if (!found || n_elems % found->block_elems)
        return false;
    return checked_mul(out_bytes, n_elems / found->block_elems, found->block_bytes);
}

const char *lode_type_list(void)
{
    return "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, "
           "MXFP4";
}
