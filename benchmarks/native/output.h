/* Bytes that wait for a socket to take them, and HTTP's chunks among them. */
#ifndef OUTPUT_H
#define OUTPUT_H

#include <stdbool.h>

#include "system.h"

enum { OUTPUT_SENT_MAX = 1 << 20 }; /* so much that was sent may stand before what waits, then it is moved away */

struct output {
    char *bytes;
    size_t len, sent, room;
};

static inline size_t output_waiting(const struct output *o)
{
    return o->len - o->sent;
}

static inline void output_put(struct output *o, const void *bytes, size_t len)
{
    if (o->len + len > o->room) {
        o->room = (o->len + len) * 2;
        o->bytes = must(realloc(o->bytes, o->room));
    }
    memcpy(o->bytes + o->len, bytes, len);
    o->len += len;
}

static inline void output_chunk(struct output *o, const char *bytes, size_t len)
{
    char size[20];
    output_put(o, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", len));
    output_put(o, bytes, len);
    output_put(o, "\r\n", 2);
}

/* Sends what the socket takes now. False: nobody is at the other end any more. */
static inline bool output_send(struct output *o, int fd)
{
    if (output_waiting(o) > 0) {
        ssize_t sent = send(fd, o->bytes + o->sent, output_waiting(o), MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            return false;
        }
        o->sent += sent > 0 ? (size_t)sent : 0;
    }
    if (output_waiting(o) == 0) {
        o->len = o->sent = 0;
    } else if (o->sent > OUTPUT_SENT_MAX) {
        memmove(o->bytes, o->bytes + o->sent, output_waiting(o));
        o->len -= o->sent;
        o->sent = 0;
    }
    return true;
}

#endif
