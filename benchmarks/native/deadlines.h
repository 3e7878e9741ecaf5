/* Deadlines in a binary heap: the first at hand, the others in log n. A deadline lives in what it is for. */
#ifndef DEADLINES_H
#define DEADLINES_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct deadline {
    uint64_t due_ns;
    size_t place; /* 0: not set; the heap's first place is 1 */
};

struct deadlines {
    struct deadline **at;
    size_t len, room;
};

static inline void deadline_put(struct deadlines *h, struct deadline *d, size_t place)
{
    h->at[place] = d;
    d->place = place;
}

/* Finds the place of `d`, beginning at one that is free. */
static inline void deadline_settle(struct deadlines *h, struct deadline *d, size_t place)
{
    for (; place > 1 && h->at[place / 2]->due_ns > d->due_ns; place /= 2) {
        deadline_put(h, h->at[place / 2], place);
    }
    for (size_t child; (child = place * 2) <= h->len; place = child) {
        if (child < h->len && h->at[child + 1]->due_ns < h->at[child]->due_ns) {
            child++;
        }
        if (h->at[child]->due_ns >= d->due_ns) {
            break;
        }
        deadline_put(h, h->at[child], place);
    }
    deadline_put(h, d, place);
}

static inline struct deadline *deadline_first(const struct deadlines *h)
{
    return h->len > 0 ? h->at[1] : NULL;
}

static inline void deadline_drop(struct deadlines *h, struct deadline *d)
{
    size_t place = d->place;
    if (place == 0) {
        return;
    }
    struct deadline *last = h->at[h->len--];
    d->place = 0;
    if (last != d) {
        deadline_settle(h, last, place);
    }
}

static inline void deadline_set(struct deadlines *h, struct deadline *d, uint64_t due_ns)
{
    d->due_ns = due_ns;
    if (d->place == 0) {
        if (h->len + 2 > h->room) {
            h->room = h->room * 2 + 1024;
            h->at = realloc(h->at, h->room * sizeof *h->at);
            if (h->at == NULL) {
                abort();
            }
        }
        d->place = ++h->len;
    }
    deadline_settle(h, d, d->place);
}

#endif
