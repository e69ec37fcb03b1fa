// Pictures of plans: well-formed, complete, within their edges, and files that are whole or not there.
#include "tests/plan_fixture.h"
#include "tests/test_folder.h"
#include "tests/xml_checks.h"
#include "tools/plan_svg.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct plan_fixture shapes[] = {
    {.n_layers = 30, .n_experts = 128, .n_gpus = 2, .heat = true},
    {.n_layers = 30, .n_experts = 128, .n_gpus = 1},
    {.n_layers = 30, .n_experts = 128},
    {.n_layers = 60, .n_gpus = 1},
    {.n_layers = 35, .n_gpus = 0, .per_layer = true},
    {.n_layers = 4, .n_experts = 8, .n_gpus = 4, .heat = true},
    {.n_layers = 120, .n_experts = 512, .n_gpus = 3, .heat = true},
    {.n_layers = 1},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static char *picture(const struct lode_plan *plan)
{
    char *text = NULL;
    size_t len;
    FILE *stream = open_memstream(&text, &len);
    struct lode_error error = {0};
    cr_assert(stream);
    cr_assert_eq(plan_svg_print(stream, plan, "f16", &error), 0, "%s", error.text);
    fclose(stream);
    return text;
}

// ---- well-formed
// ---------------------------------------------------------------------------------------------

static void expect_self_contained(const char *text)
{
    cr_expect_eq(xml_count(text, "://"), 1, "the name space alone");
    cr_expect_eq(xml_count(text, "<script") + xml_count(text, "href") + xml_count(text, "url(") +
                     xml_count(text, "@import"),
                 0);
    cr_expect_eq(xml_count(text, "prefers-color-scheme:dark"), 1);
}

Test(plan_svg, is_well_formed)
{
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct lode_plan plan;
        plan_fixture_make(&plan, &shapes[i]);
        char *text = picture(&plan);
        xml_expect_well_formed(text);
        expect_self_contained(text);
        free(text);
        plan_fixture_free(&plan);
    }
    const struct lode_plan empty = {0};
    char *text = picture(&empty);
    xml_expect_well_formed(text);
    free(text);
}

Test(plan_svg, escapes_names)
{
    struct lode_plan plan;
    plan_fixture_make(&plan, &shapes[1]);
    strcpy(plan.shape.name, "</text><script>&amp;\"'\001\033");
    strcpy(plan.machine, "bad \xff\xc3 utf-8, \xef\xbf\xbe\xef\xbf\xbf none, \xed\xa0\x80 half");
    strcpy(plan.gpus[0].name, "<GPU> & \"friends\"");
    char *text = picture(&plan);
    xml_expect_well_formed(text);
    expect_self_contained(text);
    cr_expect(strstr(text, "&lt;/text&gt;&lt;script&gt;&amp;amp;&quot;'??"));
    cr_expect(strstr(text, "(&lt;GPU&gt; &amp; &quot;friends&quot;)"));
    cr_expect(strstr(text, "bad \xef\xbf\xbd\xef\xbf\xbd utf-8, ?? none, "));
    free(text);
    plan_fixture_free(&plan);
}

// ---- complete
// ------------------------------------------------------------------------------------------------

// Experts are the rectangles in groups with a strength; dense units are those with a tip.
static uint32_t count_cells(const char *text, const char *class)
{
    char begin[48];
    uint32_t n = 0;
    snprintf(begin, sizeof begin, "<g class=\"%s\" fill-opacity=", class);
    for (const char *at = text; (at = strstr(at, begin));) {
        const char *end = strstr(at, "</g>");
        cr_assert(end);
        for (at = strstr(at, "<rect"); at && at < end; at = strstr(at + 1, "<rect"))
            n++;
        at = end;
    }
    return n;
}

Test(plan_svg, draws_every_unit_once)
{
    static const char *const all[] = {"g0", "g1", "g2", "g3", "ra", "po", "nv"};
    for (size_t i = 0; i < N_SHAPES; i++) {
        const struct plan_fixture *f = &shapes[i];
        struct lode_plan plan;
        plan_fixture_make(&plan, f);
        char *text = picture(&plan);
        uint32_t n_cells = 0;
        for (size_t c = 0; c < sizeof all / sizeof *all; c++)
            n_cells += count_cells(text, all[c]);
        cr_expect_eq(n_cells, f->n_layers * f->n_experts, "shape %zu: %u cells", i, n_cells);
        cr_expect_eq(xml_count(text, "</title></rect>"), plan.n_units - n_cells);
        cr_expect_eq(xml_count(text, "<g><title>layer "), f->n_layers);
        // Room for half of all experts, and each is drawn in the pool's colour.
        const uint32_t n_pooled = f->n_layers * f->n_experts / 2;
        const uint32_t n_sharing = n_cells - count_cells(text, "g0") - count_cells(text, "g1") -
                                   count_cells(text, "g2") - count_cells(text, "g3");
        cr_expect_eq(count_cells(text, "po"), n_pooled < n_sharing ? n_pooled : n_sharing);
        free(text);
        plan_fixture_free(&plan);
    }
}

Test(plan_svg, pool_holds_the_hottest)
{
    struct lode_plan plan;
    plan_fixture_make(&plan, &shapes[0]);
    char *text = picture(&plan);
    double least_in_pool = 1, most_on_drive = 0, strength;
    for (const char *at = text; (at = strstr(at, "<g class=\"po\" fill-opacity=\"")); at++)
        if (sscanf(at, "<g class=\"po\" fill-opacity=\"%lf", &strength) == 1 && strength < least_in_pool)
            least_in_pool = strength;
    for (const char *at = text; (at = strstr(at, "<g class=\"nv\" fill-opacity=\"")); at++)
        if (sscanf(at, "<g class=\"nv\" fill-opacity=\"%lf", &strength) == 1 && strength > most_on_drive)
            most_on_drive = strength;
    cr_expect_lt(least_in_pool, 1);
    cr_expect_gt(most_on_drive, 0);
    cr_expect_geq(least_in_pool, most_on_drive);
    free(text);
    plan_fixture_free(&plan);
}

Test(plan_svg, without_heat_each_layer_has_as_many_in_the_pool)
{
    struct lode_plan plan;
    plan_fixture_make(&plan, &shapes[2]);
    char *text = picture(&plan);
    cr_expect_eq(xml_count(text, "<g class=\"po\" fill-opacity=\"1.00\">"), 30, "one stretch in each layer");
    cr_expect_eq(count_cells(text, "po"), 30 * 64);
    cr_expect(strstr(text, "how often each is chosen is not known"));
    free(text);
    plan_fixture_free(&plan);
}

// ---- edges
// ---------------------------------------------------------------------------------------------------

struct box {
    double left, top, right, bottom;
};

// A letter of common fonts is 0.5 to 0.56 of the size wide on average; digits 0.64 at most.
static struct box text_box(const char *at)
{
    double x, y, size;
    cr_assert_eq(sscanf(at, "<text class=\"%*c\" x=\"%lf\" y=\"%lf\" font-size=\"%lf\"", &x, &y, &size), 3,
                 "%.60s", at);
    const char *tag_end = strchr(at, '>'), *end = strstr(at, "</text>");
    const char *anchor = strstr(at, "text-anchor=\"end\"");
    double width = 0;
    for (const char *c = tag_end + 1; c < end; c++)
        width += ((unsigned char)*c & 0xc0) == 0x80 ? 0 : 0.56 * size;
    const double left = anchor && anchor < tag_end ? x - width : x;
    return (struct box){left, y - 0.75 * size, left + width, y + 0.2 * size};
}

Test(plan_svg, texts_keep_apart_and_all_is_inside)
{
    static struct box boxes[512];
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct lode_plan plan;
        plan_fixture_make(&plan, &shapes[i]);
        memset(plan.machine, 'M', sizeof plan.machine - 1); // as long as can be
        memset(plan.shape.name, 'n', sizeof plan.shape.name - 1);
        char *text = picture(&plan);
        double width, height;
        cr_assert_eq(sscanf(text, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%lf\" height=\"%lf\"",
                            &width, &height),
                     2);
        cr_expect_eq(width, 1200);
        size_t n = 0;
        for (const char *at = text; (at = strstr(at, "<text ")); at++) {
            cr_assert_lt(n, sizeof boxes / sizeof *boxes);
            boxes[n] = text_box(at);
            cr_expect(boxes[n].left >= 0 && boxes[n].right <= width && boxes[n].bottom <= height,
                      "shape %zu: %.*s", i, (int)strcspn(at, "\n"), at);
            for (size_t k = 0; k < n; k++)
                cr_expect(boxes[n].left >= boxes[k].right || boxes[k].left >= boxes[n].right ||
                              boxes[n].top >= boxes[k].bottom || boxes[k].top >= boxes[n].bottom,
                          "shape %zu: a text lies over %.*s", i, (int)strcspn(at, "\n"), at);
            n++;
        }
        for (const char *at = text; (at = strstr(at, "<rect ")); at++) {
            double x, y, w, h;
            const char *from = strstr(at, " x=\"");
            if (!from || from > strchr(at, '>'))
                continue; // the background
            cr_assert_eq(sscanf(from, " x=\"%lf\" y=\"%lf\" width=\"%lf\" height=\"%lf\"", &x, &y, &w, &h),
                         4);
            cr_expect(x >= 0 && y >= 0 && w > 0 && h > 0 && x + w <= 1178 && y + h <= height,
                      "shape %zu: %.80s", i, at);
        }
        free(text);
        plan_fixture_free(&plan);
    }
}

// ---- files
// ---------------------------------------------------------------------------------------------------

static char folder[TEST_FOLDER_SIZE];
static struct lode_plan small;

static void make_folder(void)
{
    test_folder_make(folder, NULL);
    plan_fixture_make(&small, &shapes[5]);
}

static void remove_folder(void)
{
    test_folder_remove(folder);
    plan_fixture_free(&small);
}

TestSuite(plan_svg_file, .init = make_folder, .fini = remove_folder);

static uint32_t count_files(void)
{
    DIR *dir = opendir(folder);
    uint32_t n = 0;
    cr_assert(dir);
    for (const struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void expect_picture_in(const char *path)
{
    char begin[8] = "";
    FILE *file = fopen(path, "r");
    cr_assert(file);
    cr_expect_eq(fread(begin, 1, 4, file), 4);
    cr_expect_str_eq(begin, "<svg");
    fclose(file);
}

Test(plan_svg_file, replaces_a_file_and_follows_a_link)
{
    char path[96], link[96];
    struct lode_error error = {0};
    snprintf(path, sizeof path, "%s/plan.svg", folder);
    snprintf(link, sizeof link, "%s/link.svg", folder);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(plan_svg_write(path, &small, "f16", &error), 0, "%s", error.text);
        expect_picture_in(path);
        cr_expect_eq(count_files(), 1);
    }
    cr_assert_eq(symlink(path, link), 0);
    cr_assert_eq(truncate(path, 0), 0);
    cr_assert_eq(plan_svg_write(link, &small, "f16", &error), 0, "%s", error.text);
    struct stat status;
    cr_assert_eq(lstat(link, &status), 0);
    cr_expect(S_ISLNK(status.st_mode));
    expect_picture_in(path);
    cr_expect_eq(count_files(), 2);
}

Test(plan_svg_file, failures_say_what_to_do)
{
    char path[96];
    struct lode_error error = {0};
    cr_expect_eq(plan_svg_write(folder, &small, "f16", &error), LODE_ERR_IO);
    cr_expect(strstr(error.text, "it is a folder; name a file in it"), "%s", error.text);
    snprintf(path, sizeof path, "%s/absent/plan.svg", folder);
    cr_expect_eq(plan_svg_write(path, &small, "f16", &error), LODE_ERR_IO);
    cr_expect(strstr(error.text, "No such file or directory; name a file in a folder"), "%s", error.text);
    cr_expect_eq(plan_svg_write("/dev/full", &small, "f16", &error), LODE_ERR_IO);
    cr_expect(strstr(error.text, "/dev/full: No space left on device; make room there"), "%s", error.text);
    cr_expect_eq(count_files(), 0);
}
