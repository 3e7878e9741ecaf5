/* A histogram of durations: fixed memory, 64 slots an octave (1.6 %), from nanoseconds to 137 s. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>

enum {
    SLOT_BITS = 6,
    SLOTS_AN_OCTAVE = 1 << SLOT_BITS,
    TOP_OCTAVE = 36, /* 2^37 ns = 137 s; what is longer goes into the last slot, its maximum stays exact */
    SLOTS = (TOP_OCTAVE - SLOT_BITS + 2) * SLOTS_AN_OCTAVE,
};

struct histogram {
    uint64_t count, max_ns, slot[SLOTS];
};

static inline unsigned slot_of(uint64_t ns)
{
    if (ns < SLOTS_AN_OCTAVE) {
        return (unsigned)ns;
    }
    unsigned octave = 63u - (unsigned)__builtin_clzll(ns);
    if (octave > TOP_OCTAVE) {
        return SLOTS - 1;
    }
    unsigned shift = octave - SLOT_BITS;
    return (shift + 1) * SLOTS_AN_OCTAVE + (unsigned)((ns >> shift) & (SLOTS_AN_OCTAVE - 1));
}

/* The middle of a slot, in ns. */
static inline double slot_middle(unsigned slot)
{
    if (slot < SLOTS_AN_OCTAVE) {
        return slot;
    }
    unsigned shift = slot / SLOTS_AN_OCTAVE - 1;
    uint64_t lower = (uint64_t)(SLOTS_AN_OCTAVE + slot % SLOTS_AN_OCTAVE) << shift;
    return (double)lower + (double)((uint64_t)1 << shift) / 2;
}

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
    h->slot[slot_of(ns)]++;
    h->count++;
    if (ns > h->max_ns) {
        h->max_ns = ns;
    }
}

/* The nearest-rank percentile in us; never above the exact maximum, which the middle of its slot may exceed. */
static inline double percentile_us(const struct histogram *h, double share)
{
    uint64_t rank = (uint64_t)(share * (double)h->count), seen = 0;
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        seen += h->slot[slot];
        if (seen > rank) {
            double ns = slot_middle(slot);
            return (ns > (double)h->max_ns ? (double)h->max_ns : ns) / 1e3;
        }
    }
    return (double)h->max_ns / 1e3;
}

/* Writes `"name":{"count":…,"p50":…,…}`, figures in us; null where nothing was counted, for 0 would be a lie. */
static inline void histogram_print(FILE *out, const char *name, const struct histogram *h)
{
    static const struct { const char *name; double share; } wanted[] = {
        {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};
    fprintf(out, "\"%s\":{\"count\":%" PRIu64, name, h->count);
    for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (h->count > 0) {
            fprintf(out, ",\"%s\":%.2f", wanted[i].name, percentile_us(h, wanted[i].share));
        } else {
            fprintf(out, ",\"%s\":null", wanted[i].name);
        }
    }
    if (h->count > 0) {
        fprintf(out, ",\"max\":%.2f}", (double)h->max_ns / 1e3);
    } else {
        fprintf(out, ",\"max\":null}");
    }
}

#endif
