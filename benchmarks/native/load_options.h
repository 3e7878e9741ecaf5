/* The load generator's modes and options, read from the command line into one struct. */
#ifndef LOAD_OPTIONS_H
#define LOAD_OPTIONS_H

#include <getopt.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADERS_MAX = 4096, ANY_SEQ = -1, NO_SEQ = -2 };

/* From when a stream's first_us and last_us count. */
enum origin { FROM_REQUEST, FROM_CONNECT, FROM_START };

struct mode {
    const char *name;
    bool serial;  /* one stream after the other, else all over the ramp */
    bool holds;   /* streams are held open, not read to an end */
    bool reads;   /* nothing but a GET of --url-path */
    enum origin origin;
};

static const struct mode MODES[] = {
    {"streams", false, false, false, FROM_REQUEST}, {"sequential", true, false, false, FROM_REQUEST},
    {"fan", false, false, true, FROM_REQUEST},      {"gets", true, false, true, FROM_CONNECT},
    {"storm", false, false, true, FROM_START},      {"idle", false, true, true, FROM_REQUEST},
};

struct options {
    const struct mode *mode;
    uint16_t port;
    const char *post, *get, *body, *last_event_id;
    size_t body_len;
    char headers[HEADERS_MAX]; /* of the command line, each with its CRLF */
    uint64_t count;            /* streams, or readers, or repetitions */
    uint64_t tokens, expect;   /* finished at seq tokens-1, or at the expect-th token; both 0: at the answer's end */
    int64_t first_seq;         /* the seq that a stream's first token must have, or ANY_SEQ */
    double ramp_s, from_s, to_s, hold_s, timeout_s, linger_s;
    bool again, stay;
};

static const char USAGE[] =
    "usage: load MODE --port P [options]      (prints one JSON object; figures of time in us)\n"
    "  streams     --streams N [--ramp-s R] [--from-s A] [--to-s B] [--again] [--stay]\n"
    "              (--stay: prints at B, and then reads on until stdin ends)\n"
    "  sequential  --repeat K\n"
    "  fan         --readers M --url-path PATH [--ramp-s R] [--from-s A] [--to-s B]\n"
    "  gets        --repeat K --url-path PATH --expect N\n"
    "  storm       --readers M --url-path PATH --expect N\n"
    "  idle        --readers M --url-path PATH --hold-s S [--ramp-s R]   (prints `open` when all have a head)\n"
    "streams and sequential: --post PATH [--body FILE] [--get PATH with {id}]\n"
    "common: --header 'K: V' (repeatable)  --tokens N  --last-event-id X  --first-seq S|any  --timeout-s T (60)\n"
    "        --linger-s L (0.1: how long a finished stream may take to end by itself before it is cut)\n";

static inline void usage_error(const char *what, const char *which)
{
    fprintf(stderr, "load: %s %s\n%s", what, which, USAGE);
    exit(2);
}

static inline double number_of(const char *text, const char *option)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 0)) {
        usage_error("not a number for", option);
    }
    return value;
}

static inline void read_body(struct options *o, const char *path)
{
    FILE *file = fopen(path, "rb");
    long size = file != NULL && fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    char *body = size >= 0 ? malloc((size_t)size + 1) : NULL;
    if (body == NULL || fseek(file, 0, SEEK_SET) != 0 || fread(body, 1, (size_t)size, file) != (size_t)size) {
        usage_error("cannot read", path);
    }
    fclose(file);
    o->body = body;
    o->body_len = (size_t)size;
}

static inline void add_header(struct options *o, const char *header)
{
    size_t len = strlen(o->headers);
    if (len + strlen(header) + 3 > HEADERS_MAX || strchr(header, ':') == NULL) {
        usage_error("not a header:", header);
    }
    snprintf(o->headers + len, HEADERS_MAX - len, "%s\r\n", header);
}

enum kind { SECONDS, COUNT, TEXT, PORT, SEQ, HEADER, BODY, SWITCH };

static const struct { const char *name; enum kind kind; size_t field; } OPTIONS[] = {
    {"port", PORT, 0}, {"header", HEADER, 0}, {"body", BODY, 0}, {"first-seq", SEQ, 0},
    {"again", SWITCH, offsetof(struct options, again)},
    {"stay", SWITCH, offsetof(struct options, stay)},
    {"post", TEXT, offsetof(struct options, post)},
    {"get", TEXT, offsetof(struct options, get)},
    {"url-path", TEXT, offsetof(struct options, get)},
    {"last-event-id", TEXT, offsetof(struct options, last_event_id)},
    {"streams", COUNT, offsetof(struct options, count)},
    {"readers", COUNT, offsetof(struct options, count)},
    {"repeat", COUNT, offsetof(struct options, count)},
    {"tokens", COUNT, offsetof(struct options, tokens)},
    {"expect", COUNT, offsetof(struct options, expect)},
    {"ramp-s", SECONDS, offsetof(struct options, ramp_s)},
    {"from-s", SECONDS, offsetof(struct options, from_s)},
    {"to-s", SECONDS, offsetof(struct options, to_s)},
    {"hold-s", SECONDS, offsetof(struct options, hold_s)},
    {"timeout-s", SECONDS, offsetof(struct options, timeout_s)},
    {"linger-s", SECONDS, offsetof(struct options, linger_s)},
};
enum { OPTION_COUNT = sizeof OPTIONS / sizeof *OPTIONS };

static inline void take_option(struct options *o, unsigned which, const char *value)
{
    const char *name = OPTIONS[which].name;
    void *field = (char *)o + OPTIONS[which].field;
    switch (OPTIONS[which].kind) {
    case SECONDS: *(double *)field = number_of(value, name); break;
    case COUNT: *(uint64_t *)field = (uint64_t)number_of(value, name); break;
    case TEXT: *(const char **)field = value; break;
    case PORT: o->port = (uint16_t)number_of(value, name); break;
    case SEQ: o->first_seq = strcmp(value, "any") == 0 ? ANY_SEQ : (int64_t)number_of(value, name); break;
    case HEADER: add_header(o, value); break;
    case BODY: read_body(o, value); break;
    case SWITCH: *(bool *)field = true; break;
    }
}

static inline void check_options(struct options *o)
{
    if (o->port == 0 || o->count == 0) {
        usage_error("needs --port and a count for", o->mode->name);
    }
    if (o->mode->reads ? o->get == NULL : o->post == NULL) {
        usage_error(o->mode->reads ? "needs --url-path:" : "needs --post:", o->mode->name);
    }
    if (o->first_seq == NO_SEQ) { /* not given: behind a cursor the first token can be any */
        o->first_seq = o->last_event_id != NULL ? ANY_SEQ : 0;
    }
}

static inline struct options read_options(int argc, char **argv)
{
    struct option table[OPTION_COUNT + 1] = {{0}};
    struct options o = {.to_s = INFINITY, .timeout_s = 60, .hold_s = INFINITY, .linger_s = 0.1};
    o.first_seq = NO_SEQ;
    o.body = "";
    for (int i = 0; i < OPTION_COUNT; i++) {
        int takes = OPTIONS[i].kind == SWITCH ? no_argument : required_argument;
        table[i] = (struct option){OPTIONS[i].name, takes, NULL, i};
    }
    for (size_t i = 0; argc > 1 && i < sizeof MODES / sizeof *MODES; i++) {
        o.mode = strcmp(argv[1], MODES[i].name) == 0 ? &MODES[i] : o.mode;
    }
    if (o.mode == NULL) {
        usage_error("unknown mode:", argc > 1 ? argv[1] : "none");
    }
    for (int which; (which = getopt_long(argc - 1, argv + 1, "", table, NULL)) != -1;) {
        if (which == '?') {
            usage_error("bad option in", o.mode->name);
        }
        take_option(&o, (unsigned)which, optarg);
    }
    if (optind < argc - 1) {
        usage_error("unexpected:", argv[1 + optind]);
    }
    check_options(&o);
    return o;
}

#endif
