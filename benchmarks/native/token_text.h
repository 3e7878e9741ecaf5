/* The text of a measured token, `@<seq>:<ns>;`: written by the fake provider, found again in any bytes by the load. */
#ifndef TOKEN_TEXT_H
#define TOKEN_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { TOKEN_TEXT_MAX = 48 };

static inline size_t put_decimal(char *to, uint64_t value)
{
    char reversed[20];
    size_t len = 0;
    do {
        reversed[len++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    for (size_t i = 0; i < len; i++) {
        to[i] = reversed[len - 1 - i];
    }
    return len;
}

/* Writes the token (at most TOKEN_TEXT_MAX bytes) and returns its length. */
static inline size_t put_token(char *to, uint64_t seq, uint64_t made_ns)
{
    size_t len = 0;
    to[len++] = '@';
    len += put_decimal(to + len, seq);
    to[len++] = ':';
    len += put_decimal(to + len, made_ns);
    to[len++] = ';';
    return len;
}

/* Where the finder is within a token; all zero is the beginning. It survives any split of the bytes over reads. */
struct token_finder {
    enum { BETWEEN, IN_SEQ, IN_STAMP } at;
    unsigned digits;
    uint64_t seq, made_ns;
};

/* Finds the next token. Advances *bytes behind what was read; false where the bytes are used up. */
static inline bool find_token(struct token_finder *f, const char **bytes, const char *end)
{
    const char *p = *bytes;
    while (p < end) {
        if (f->at == BETWEEN) {
            p = memchr(p, '@', (size_t)(end - p));
            if (p == NULL) {
                break;
            }
            p++;
            *f = (struct token_finder){.at = IN_SEQ};
            continue;
        }
        char c = *p;
        if (c >= '0' && c <= '9' && f->digits < 19) {
            uint64_t *number = f->at == IN_SEQ ? &f->seq : &f->made_ns;
            *number = *number * 10 + (uint64_t)(c - '0');
            f->digits++;
            p++;
        } else if (c == ':' && f->at == IN_SEQ && f->digits > 0) {
            f->at = IN_STAMP;
            f->digits = 0;
            p++;
        } else {
            bool whole = c == ';' && f->at == IN_STAMP && f->digits > 0;
            f->at = BETWEEN; /* this byte is looked at again: it may be the '@' of a token */
            if (whole) {
                *bytes = p + 1;
                return true;
            }
        }
    }
    *bytes = end;
    return false;
}

#endif
