// How a run is set, in words key=value, as the options and the engine have it: what a result tells of itself.
#ifndef LODE_TOOLS_MODEL_SETTINGS_H
#define LODE_TOOLS_MODEL_SETTINGS_H

#include "tools/model.h"

// What does not fit is left out. While the session is open, which tells how the memory was divided.
void model_settings_write(char *out, size_t capacity, const struct model_options *options,
                          const struct lode_engine *engine, const struct lode_session *session);

#endif
