// Pieces of pictures in SVG: scales with ticks, labels that do not overlap, and text that any bytes may be.
#ifndef LODE_TOOLS_PLOT_H
#define LODE_TOOLS_PLOT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

// Width of a letter as a share of the font's size, on the safe side for common fonts.
#define PLOT_LETTER 0.58

// ---- text

// Escapes what XML and HTML take for themselves; control characters become '?', what is no UTF-8 U+FFFD. Good
// between tags and within double quotes. text may be NULL.
void plot_put(FILE *out, const char *text);

// As much of it as fits into so many pixels; what does not ends in an ellipsis. Letters beyond ASCII count
// double. Returns the width that it takes at most.
double plot_put_fitted(FILE *out, const char *text, double size, double width);

enum { PLOT_NUMBER_SIZE = 32 };
// Three or more digits: "0.123", "1.23", "12.3", "1234". "–" where it is not finite.
const char *plot_number(char out[PLOT_NUMBER_SIZE], double value);
const char *plot_percent(char out[PLOT_NUMBER_SIZE], double share); // "61.2%"
const char *plot_bytes(char out[PLOT_NUMBER_SIZE], double bytes);   // "9.9 MiB"

// ---- scales

enum { PLOT_TICKS = 16 };

struct plot_scale {
    double least, most; // values; least < most, and 0 < least where it is logarithmic
    double from, to;    // where they lie, in pixels
    bool logarithmic;
    uint32_t n_ticks;
    double ticks[PLOT_TICKS]; // ascending, within least and most
};

// A scale over these values with some `n` round ticks. Linear: from a round number at or below `least` to one
// at or above `most`. Logarithmic where it is asked for and all values are above 0: with a margin of 6%, and
// at least so wide that it has two ticks. Values that are not finite or the wrong way round give a linear
// scale from 0 to 1.
struct plot_scale plot_scale_over(double least, double most, uint32_t n, bool logarithmic, double from,
                                  double to);

// Where a value lies; what is beyond an end, at the end.
double plot_at(const struct plot_scale *scale, double value);

// Moves labels apart: y, ascending, become ascending at least `gap` apart (or evenly apart where there is no
// room for that) between top and bottom, as near as possible to where they were (least squares).
void plot_spread(double *y, uint32_t n, double gap, double top, double bottom);

// ---- marks

enum { PLOT_MARKS = 6 };

// A mark of about 8 pixels around a point, in the colour of its surroundings: circle, square, triangle,
// diamond, triangle upside down, cross.
void plot_mark(FILE *out, uint32_t mark, double x, double y);

#endif
