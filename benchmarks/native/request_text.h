/* What is read from a request's text: a JSON value, the length of the body. */
#ifndef REQUEST_TEXT_H
#define REQUEST_TEXT_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The value behind a JSON key, found as text: within a string the key's quotes would be escaped and not match. */
static inline const char *json_value(const char *body, const char *key)
{
    for (const char *at = body; (at = strstr(at, key)) != NULL;) {
        at += strlen(key);
        at += strspn(at, " \t\r\n");
        if (*at == ':') {
            at++;
            return at + strspn(at, " \t\r\n");
        }
    }
    return NULL;
}

/* The length of the request's body, from its head (which ends with a zero byte here). */
static inline size_t body_length(const char *head, bool *closing)
{
    size_t length = 0;
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, "content-length:", 15) == 0) {
            length = strtoull(line + 17, NULL, 10);
        } else if (strncasecmp(line + 2, "connection: close", 17) == 0) {
            *closing = true;
        }
    }
    return length;
}

#endif
