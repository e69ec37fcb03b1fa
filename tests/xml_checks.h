// What pictures and pages must be whatever is in them, for tests.
#ifndef LODE_TEST_XML_CHECKS_H
#define LODE_TEST_XML_CHECKS_H

#include <stdint.h>

// How often `part` stands in the text.
uint32_t xml_count(const char *text, const char *part);

// Fails the test unless the text is one element with others inside that close in their order: attributes are
// name="value", of references there are &amp; &lt; &gt; &quot;, and no control character but a line's end.
void xml_expect_well_formed(const char *text);

#endif
