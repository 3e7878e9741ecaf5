/* What the load generator saw: its counters and histograms, and how they are written as JSON. */
#ifndef LOAD_RESULT_H
#define LOAD_RESULT_H

#include <inttypes.h>
#include <stdio.h>

#include "histogram.h"
#include "system.h"

enum { ERROR_MAX = 300 };

struct result {
    uint64_t tokens, in_window; /* each seq of a stream once; a repetition is in dups, and nowhere else */
    uint64_t finished, gaps, dups, errors, bytes; /* gaps: seqs that were leapt over; bytes: of the bodies, unchunked */
    double elapsed_s, window_s;
    char error_first[ERROR_MAX];
    struct histogram lag, first, last; /* lag: of the tokens in the window */
};

/* The first error is told in full, for the others are mostly the same. */
static inline void result_error(struct result *r, const char *what, const char *detail)
{
    if (r->errors++ == 0) {
        snprintf(r->error_first, sizeof r->error_first, "%s%s", what, detail);
    }
}

static inline void print_text(const char *name, const char *text)
{
    printf("\"%s\":\"", name);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        printf(c == '"' || c == '\\' ? "\\%c" : c < 32 || c > 126 ? "\\u%04x" : "%c", c);
    }
    printf("\",");
}

/* The members of a JSON object, without its braces. */
static inline void result_print(const struct result *r)
{
    printf("\"errors\":%" PRIu64 ",", r->errors);
    print_text("error_first", r->error_first);
    printf("\"tokens\":%" PRIu64 ",\"gaps\":%" PRIu64 ",\"dups\":%" PRIu64 ",\"bytes\":%" PRIu64 ",",
           r->tokens, r->gaps, r->dups, r->bytes);
    printf("\"in_window\":%" PRIu64 ",\"window_s\":%.4f,\"elapsed_s\":%.4f,\"cpu_s\":%.4f,",
           r->in_window, r->window_s, r->elapsed_s, cpu_seconds());
    histogram_print(stdout, "lag_us", &r->lag);
    printf(",");
    histogram_print(stdout, "first_us", &r->first);
    printf(",");
    histogram_print(stdout, "last_us", &r->last);
}

#endif
