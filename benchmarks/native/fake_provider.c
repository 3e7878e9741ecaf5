/* A fake provider: OpenAI's streaming chat completions, each token stamped with the moment at which it was made.

   fake_provider PORT      (0: a free one; it is printed as the first line of stdout; ends when stdin does)

   The model asks for the stream: "fake/n=100/d=50000/f=0/b=1" is 100 tokens, 50,000 us from one to the next (0: as fast
   as the socket takes them), the first after 0 us, 1 token a write (with b=10 ten tokens share a write every 10 d: the
   rate stays). With j=100 a token comes at some moment of the 100 % of d behind its time, or streams that once fell on
   the same moment would do so to their end. Head and role chunk go out at once. One thread; at the end it prints what
   it did and how late it was. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "deadlines.h"
#include "histogram.h"
#include "output.h"
#include "request_text.h"
#include "system.h"
#include "token_text.h"

enum {
    EVENTS_A_TURN = 512,
    REQUEST_MAX = 8 << 20,
    READ_SIZE = 1 << 16,
    FLOOD_AHEAD = 16 << 10,    /* bytes made at once in flood mode: few, so that a stamp is young when it leaves */
    FLOOD_UNSENT = 128 << 10,  /* of the kernel's buffer too, or a flood's lag would be the depth of that buffer */
    BACKLOG_MAX = 4 << 20,     /* a paced stream goes on making tokens for a slow reader until so much waits */
    LIFE_MAX_S = 4 * 3600,     /* whatever became of the process that holds our stdin */
    MODEL_MAX = 128,
    FRAME_MAX = 512,
    TOKENS_A_WRITE_MAX = 128,
};

struct stream {
    uint64_t tokens, gap_ns, first_ns, jitter_ns, per_write; /* what the model asked for */
    uint64_t made, began_ns, number;
    bool usage;
    char before[FRAME_MAX]; /* of a frame: all that stands before the token's text */
    size_t before_len;
};

struct connection {
    int fd;
    bool streaming, closing, wants_out;
    size_t in_len, in_room;
    char *in;
    struct output out;
    struct deadline deadline; /* of its next paced token */
    struct stream stream;
};

static int poller, timer;
static uint64_t streams_begun, tokens_made;
static struct deadlines deadlines;
static struct histogram late; /* paced writes: how long after their time they were made */
static const char FRAME_END[] = "\"},\"finish_reason\":null}]}\n\n";

static void hang_up(struct connection *c)
{
    deadline_drop(&deadlines, &c->deadline);
    close(c->fd);
    free(c->in);
    free(c->out.bytes);
    free(c);
}

/* Sends what waits; asks to be woken for the rest, or where the stream waits for room instead of a moment.
   False: the client is gone, or was to be hung up on. */
static bool flush(struct connection *c)
{
    if (!output_send(&c->out, c->fd)) {
        return false;
    }
    bool wants_out = output_waiting(&c->out) > 0 || (c->streaming && c->deadline.place == 0);
    if (wants_out != c->wants_out) {
        struct epoll_event wish = {.events = EPOLLIN | (wants_out ? EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &wish);
        c->wants_out = wants_out;
    }
    return !(c->closing && !c->streaming && output_waiting(&c->out) == 0);
}

/* ---- the stream ---- */

/* One write's worth of tokens: one HTTP chunk of so many frames, as a vendor's proxy passes them on. */
static void put_tokens(struct connection *c)
{
    static char frames[TOKENS_A_WRITE_MAX * (FRAME_MAX + TOKEN_TEXT_MAX + sizeof FRAME_END)];
    struct stream *s = &c->stream;
    uint64_t now = now_ns(), until = s->made + s->per_write;
    size_t len = 0;
    for (; s->made < until && s->made < s->tokens; s->made++, tokens_made++) {
        memcpy(frames + len, s->before, s->before_len);
        len += s->before_len;
        len += put_token(frames + len, s->made, now);
        memcpy(frames + len, FRAME_END, sizeof FRAME_END - 1);
        len += sizeof FRAME_END - 1;
    }
    output_chunk(&c->out, frames, len);
}

/* A frame that is no token. It begins as a token's does, as far as `choices`. */
static void put_frame(struct connection *c, const char *choices)
{
    static const char key[] = "\"choices\":";
    char frame[2 * FRAME_MAX];
    const char *at = memmem(c->stream.before, c->stream.before_len, key, sizeof key - 1);
    int shared = (int)(at - c->stream.before);
    int len = snprintf(frame, sizeof frame, "%.*s%s}\n\n", shared, c->stream.before, choices);
    output_chunk(&c->out, frame, (size_t)len);
}

static void put_end(struct connection *c)
{
    static const char last[] = "data: [DONE]\n\n";
    put_frame(c, "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]");
    if (c->stream.usage) {
        char usage[FRAME_MAX];
        unsigned long long n = c->stream.tokens;
        snprintf(usage, sizeof usage, "\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":%llu,"
                 "\"total_tokens\":%llu}", n, n + 1);
        put_frame(c, usage);
    }
    output_chunk(&c->out, last, sizeof last - 1);
    output_put(&c->out, "0\r\n\r\n", 5);
    c->streaming = false;
}

/* The same numbers for the same stream and token, that look like chance (splitmix64). */
static uint64_t chance(uint64_t stream, uint64_t token)
{
    uint64_t z = (stream << 32) + (token + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t next_due(const struct stream *s)
{
    uint64_t late_ns = s->jitter_ns == 0 ? 0 : chance(s->number, s->made) % s->jitter_ns;
    return s->began_ns + s->first_ns + s->made * s->gap_ns + late_ns;
}

/* Makes the tokens that are due (flood: a few), and sets the next deadline. */
static void make_tokens(struct connection *c)
{
    struct stream *s = &c->stream;
    uint64_t now = now_ns();
    size_t room = s->gap_ns == 0 ? FLOOD_AHEAD : BACKLOG_MAX;
    while (s->made < s->tokens && next_due(s) <= now && output_waiting(&c->out) < room) {
        if (s->gap_ns > 0) {
            histogram_add(&late, now - next_due(s));
        }
        put_tokens(c);
    }
    deadline_drop(&deadlines, &c->deadline);
    if (s->made == s->tokens) {
        put_end(c);
    } else if (output_waiting(&c->out) < room && next_due(s) > now) {
        deadline_set(&deadlines, &c->deadline, next_due(s));
    } /* else the socket wakes it */
}

static uint64_t asked(const char *model, const char *key, uint64_t otherwise)
{
    const char *at = strstr(model, key);
    return at != NULL ? strtoull(at + strlen(key), NULL, 10) : otherwise;
}

static void begin_stream(struct connection *c, const char *model, bool usage)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                               "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
    struct stream *s = &c->stream;
    *s = (struct stream){.tokens = asked(model, "/n=", 100), .gap_ns = asked(model, "/d=", 50000) * 1000,
                         .first_ns = asked(model, "/f=", 0) * 1000, .per_write = asked(model, "/b=", 1),
                         .usage = usage, .began_ns = now_ns(), .number = ++streams_begun};
    uint64_t percent = asked(model, "/j=", 0);
    s->jitter_ns = s->gap_ns / 100 * (percent > 100 ? 100 : percent);
    s->per_write = s->per_write < 1 ? 1 : s->per_write > TOKENS_A_WRITE_MAX ? TOKENS_A_WRITE_MAX : s->per_write;
    s->before_len = (size_t)snprintf(
        s->before, sizeof s->before,
        "data: {\"id\":\"chatcmpl-%llu\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"%s\","
        "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"", (unsigned long long)s->number, model);
    c->streaming = true;
    output_put(&c->out, head, sizeof head - 1);
    put_frame(c, "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                 "\"finish_reason\":null}]");
    make_tokens(c);
}

/* ---- requests ---- */

static void refuse(struct connection *c, const char *status, const char *why)
{
    char body[FRAME_MAX], head[FRAME_MAX];
    int len = snprintf(body, sizeof body, "{\"error\":{\"message\":\"%s\",\"type\":\"invalid_request_error\","
                       "\"param\":null,\"code\":null}}", why);
    output_put(&c->out, head, (size_t)snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Type: application/json\r\n"
                                  "Content-Length: %d\r\n\r\n", status, len));
    output_put(&c->out, body, (size_t)len);
}

static void answer_request(struct connection *c, const char *head, const char *body)
{
    char model[MODEL_MAX] = "";
    const char *value = json_value(body, "\"model\""), *usage = json_value(body, "\"include_usage\"");
    if (value != NULL) {
        sscanf(value, "\"%127[^\"\\]\"", model);
    }
    if (strncmp(head, "POST /v1/chat/completions ", 26) != 0) {
        refuse(c, "404 Not Found", "only POST /v1/chat/completions is here");
    } else if (strncmp(model, "fake/", 5) != 0) {
        refuse(c, "400 Bad Request", "the model must be like fake/n=100/d=50000/f=0/b=1");
    } else {
        begin_stream(c, model, usage != NULL && strncmp(usage, "true", 4) == 0);
    }
}

/* Answers the requests that are complete, one after the other. False: this is no request that it could take. */
static bool take_requests(struct connection *c)
{
    while (!c->streaming && !c->closing && c->in_len > 0) {
        char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (end == NULL) {
            return c->in_len < READ_SIZE;
        }
        size_t head_len = (size_t)(end - c->in) + 4;
        end[2] = '\0';
        size_t length = body_length(c->in, &c->closing), total = head_len + length;
        if (length > REQUEST_MAX) {
            return false;
        }
        if (c->in_len < total) {
            end[2] = '\r';
            c->closing = false;
            return true;
        }
        char behind = c->in[total]; /* there is always room for one byte more */
        c->in[total] = '\0';
        answer_request(c, c->in, c->in + head_len);
        c->in[total] = behind;
        memmove(c->in, c->in + total, c->in_len - total);
        c->in_len -= total;
    }
    return true;
}

static bool receive(struct connection *c)
{
    if (c->in_room - c->in_len < READ_SIZE + 1) {
        c->in_room = c->in_room == 0 ? READ_SIZE + 1 : c->in_room * 2 + READ_SIZE;
        c->in = must(realloc(c->in, c->in_room));
    }
    ssize_t got = recv(c->fd, c->in + c->in_len, READ_SIZE, 0);
    if (got <= 0) {
        return got < 0 && (errno == EAGAIN || errno == EINTR);
    }
    c->in_len += (size_t)got;
    return c->in_len < REQUEST_MAX + READ_SIZE && take_requests(c);
}

/* ---- the loop ---- */

static void accept_all(int listener)
{
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        int unsent = FLOOD_UNSENT;
        struct connection *c = must(calloc(1, sizeof *c));
        struct epoll_event wish = {.events = EPOLLIN, .data.ptr = c};
        c->fd = fd;
        set_nodelay(fd);
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wish);
    }
}

static void serve(struct connection *c, uint32_t ready)
{
    bool alive = !(ready & (EPOLLERR | EPOLLHUP));
    if (alive && ready & EPOLLIN) {
        alive = receive(c);
    }
    if (alive && c->streaming && ready & EPOLLOUT) {
        make_tokens(c);
    }
    alive = alive && flush(c);
    if (alive && !c->streaming && c->in_len > 0) {
        alive = take_requests(c) && flush(c); /* one that came while the last answer was still under way */
    }
    if (!alive) {
        hang_up(c);
    }
}

static void serve_due(void)
{
    uint64_t now = now_ns(); /* taken once: what becomes due meanwhile waits until the sockets were looked at */
    for (struct deadline *first; (first = deadline_first(&deadlines)) != NULL && first->due_ns <= now;) {
        struct connection *c = (struct connection *)((char *)first - offsetof(struct connection, deadline));
        make_tokens(c);
        if (!flush(c)) {
            hang_up(c);
        }
    }
    struct itimerspec wake = {0};
    const struct deadline *next = deadline_first(&deadlines);
    if (next != NULL) {
        wake.it_value.tv_sec = (time_t)(next->due_ns / 1000000000u);
        wake.it_value.tv_nsec = (long)(next->due_ns % 1000000000u);
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &wake, NULL); /* clears its readiness too, so it is never read */
}

static void watch(int fd, void *tag)
{
    struct epoll_event wish = {.events = EPOLLIN, .data.ptr = tag};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wish) != 0) {
        die(tag);
    }
}

static void run(int listener)
{
    static char listener_tag[] = "the listener", timer_tag[] = "the timer";
    static char stdin_tag[] = "stdin must be a pipe or a terminal";
    struct epoll_event events[EVENTS_A_TURN];
    char ignored[256];
    watch(listener, listener_tag);
    watch(timer, timer_tag);
    watch(STDIN_FILENO, stdin_tag);
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS_A_TURN, -1);
        for (int i = 0; i < ready; i++) {
            void *who = events[i].data.ptr;
            if (who == listener_tag) {
                accept_all(listener);
            } else if (who == stdin_tag && read(STDIN_FILENO, ignored, sizeof ignored) <= 0) {
                return;
            } else if (who != timer_tag && who != stdin_tag) {
                serve(who, events[i].events);
            }
        }
        serve_due();
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: fake_provider PORT\n");
        return 2;
    }
    uint16_t port = (uint16_t)atoi(argv[1]);
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    alarm(LIFE_MAX_S);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    int listener = listen_on_loopback(&port);
    printf("%u\n", port);
    fflush(stdout);
    run(listener);
    printf("{\"streams\":%llu,\"tokens\":%llu,\"cpu_s\":%.3f,", (unsigned long long)streams_begun,
           (unsigned long long)tokens_made, cpu_seconds());
    histogram_print(stdout, "late_us", &late);
    printf("}\n");
    return 0;
}
