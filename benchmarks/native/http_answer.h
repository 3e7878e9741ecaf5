/* Reading one HTTP/1.1 answer as it comes: head, then a body that is chunked, counted or ends with the connection. */
#ifndef HTTP_ANSWER_H
#define HTTP_ANSWER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { ANSWER_TEXT = 4096 }; /* the longest head; of a body that is kept, the beginning */

enum answer_state { IN_HEAD, IN_SIZE, IN_CHUNK, AFTER_CHUNK, IN_TRAILER, IN_COUNTED, IN_REST, COMPLETE, BROKEN };

struct answer {
    enum answer_state state;
    int status;
    bool closes;       /* the server will close the connection behind this answer */
    bool line_empty;   /* of the trailer: nothing but CR seen on this line */
    bool past_size;    /* of a chunk's size line: within its extension */
    uint64_t left;     /* bytes of the chunk, or of the counted body, that are still to come */
    size_t text_len;
    char text[ANSWER_TEXT + 1]; /* while IN_HEAD the head; the caller may keep a body's beginning here afterwards */
};

typedef void body_reader(void *reader, const char *bytes, size_t len);

static inline void answer_begin(struct answer *a)
{
    a->state = IN_HEAD;
    a->status = 0;
    a->closes = a->line_empty = a->past_size = false;
    a->left = 0;
    a->text_len = 0;
}

/* The value of a header in a head that ends with a zero byte, or NULL; names compare without case. */
static inline const char *header_value(const char *head, const char *name)
{
    size_t len = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, len) == 0 && line[2 + len] == ':') {
            const char *value = line + 3 + len;
            return value + strspn(value, " \t");
        }
    }
    return NULL;
}

static inline bool header_says(const char *head, const char *name, const char *word)
{
    const char *value = header_value(head, name);
    return value != NULL && strncasecmp(value, word, strlen(word)) == 0;
}

/* Decides from the complete head how the body is delimited (RFC 9112, section 6.3). */
static inline void answer_take_head(struct answer *a)
{
    const char *length = header_value(a->text, "content-length");
    a->text[a->text_len] = '\0';
    a->status = strncmp(a->text, "HTTP/1.", 7) == 0 && a->text_len > 12 ? atoi(a->text + 9) : 0;
    a->closes = header_says(a->text, "connection", "close");
    if (a->status < 100) {
        a->state = BROKEN;
    } else if (a->status < 200) {
        answer_begin(a); /* 100 Continue and its like: the answer itself is still to come */
        return;
    } else if (header_says(a->text, "transfer-encoding", "chunked")) {
        a->state = IN_SIZE;
    } else if (length != NULL || a->status == 204 || a->status == 304) {
        a->left = length != NULL && a->status != 204 && a->status != 304 ? strtoull(length, NULL, 10) : 0;
        a->state = a->left > 0 ? IN_COUNTED : COMPLETE;
    } else {
        a->closes = true;
        a->state = IN_REST;
    }
    a->text_len = 0;
}

static inline void answer_head_byte(struct answer *a, char c)
{
    if (a->text_len == ANSWER_TEXT) {
        a->state = BROKEN;
        return;
    }
    a->text[a->text_len++] = c;
    a->text[a->text_len] = '\0';
    if (c == '\n' && a->text_len >= 4 && memcmp(a->text + a->text_len - 4, "\r\n\r\n", 4) == 0) {
        answer_take_head(a);
    }
}

static inline void answer_size_byte(struct answer *a, char c)
{
    int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    if (c == '\n') {
        a->past_size = false;
        a->line_empty = true;
        a->state = a->left > 0 ? IN_CHUNK : IN_TRAILER;
    } else if (digit < 0 || a->past_size) {
        a->past_size = true; /* CR, or an extension: not ours to read */
    } else if (a->left >> 56 != 0) {
        a->state = BROKEN;
    } else {
        a->left = a->left << 4 | (uint64_t)digit;
    }
}

static inline void answer_trailer_byte(struct answer *a, char c)
{
    if (c == '\n' && a->line_empty) {
        a->state = COMPLETE;
    } else if (c == '\n') {
        a->line_empty = true;
    } else if (c != '\r') {
        a->line_empty = false;
    }
}

static inline size_t answer_body_bytes(struct answer *a, const char *bytes, size_t len, body_reader *read, void *reader)
{
    size_t take = a->state == IN_REST || a->left > len ? len : (size_t)a->left;
    read(reader, bytes, take);
    if (a->state != IN_REST) {
        a->left -= take;
        if (a->left == 0) {
            a->state = a->state == IN_CHUNK ? AFTER_CHUNK : COMPLETE;
        }
    }
    return take;
}

/* Takes bytes until they are used up or the answer is COMPLETE or BROKEN; body bytes go to read() unchunked. */
static inline void answer_feed(struct answer *a, const char *bytes, size_t len, body_reader *read, void *reader)
{
    for (size_t at = 0; at < len && a->state != COMPLETE && a->state != BROKEN;) {
        switch (a->state) {
        case IN_HEAD: answer_head_byte(a, bytes[at++]); break;
        case IN_SIZE: answer_size_byte(a, bytes[at++]); break;
        case IN_TRAILER: answer_trailer_byte(a, bytes[at++]); break;
        case AFTER_CHUNK:
            if (bytes[at++] == '\n') {
                a->state = IN_SIZE;
            }
            break;
        default: at += answer_body_bytes(a, bytes + at, len - at, read, reader); break;
        }
    }
}

/* The connection ended: the end of the body where only that could end it; in all other states something is missing. */
static inline void answer_end(struct answer *a)
{
    a->state = a->state == IN_REST ? COMPLETE : BROKEN;
}

#endif
