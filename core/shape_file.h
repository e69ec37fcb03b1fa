// A model file that is nothing but a header: for questions about a shape before one has its weights.
#ifndef LODE_SHAPE_FILE_H
#define LODE_SHAPE_FILE_H

#include "core/lode.h"

// A file in memory with the hyperparameters and the tensor index of a synthetic model, as long as the whole
// file would be and empty behind the header. It has no vocabulary.
struct shape_file {
    int fd;
    char path[40]; // to open it by, as long as it is open
};

int shape_file_open(struct shape_file *out, const struct lode_synth_options *options,
                    struct lode_error *error);
void shape_file_close(struct shape_file *file);

#endif
