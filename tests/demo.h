// The demo model for tests of sessions. Each function fails the test on an error.
#ifndef LODE_TEST_DEMO_H
#define LODE_TEST_DEMO_H

#include "core/lode.h"

extern const char demo_story[]; // the beginning of one

struct lode_engine *demo_engine(uint32_t threads);
struct lode_session *demo_session(struct lode_engine *engine, uint32_t context, uint32_t batch);

// Ids of a text after <bos>; the caller frees them.
size_t demo_encode(const struct lode_engine *engine, const char *text, int32_t **ids);
void demo_feed(struct lode_session *session, const int32_t *ids, size_t count);
float *demo_copy_logits(const struct lode_session *session, size_t vocab); // the caller frees them

#endif
