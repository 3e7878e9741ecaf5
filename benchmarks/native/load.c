/* The load generator: many readers of measured streams in one thread, and what they saw as one JSON object.

   load MODE --port P [options]       (`load` alone prints them)

   It talks to 127.0.0.1 only. It finds the tokens `@<seq>:<ns>;` in the bytes of the answers' bodies, checks that each
   stream's seq has neither hole nor repetition, and takes as a token's lag the time from its stamp to the read that
   brought it (taken once a read, before parsing, so that our own work is not in it). A server's failure is a figure in
   the result, not an exit status. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/epoll.h>
#include <sys/queue.h>

#include "http_answer.h"
#include "load_options.h"
#include "load_result.h"
#include "system.h"
#include "token_text.h"

enum { EVENTS_A_TURN = 512, READ_SIZE = 256 << 10, ID_MAX = 128 };

struct stream {
    int fd;
    bool posts;    /* the request in flight is a POST whose answer only names the job */
    bool measured; /* its result is counted; what is left is to see its answer end */
    char *request;
    size_t request_len, request_sent;
    uint64_t origin_ns, read_ns, end_by_ns, seen;
    int64_t next_seq;
    struct token_finder finder;
    struct answer answer;
    TAILQ_ENTRY(stream) link;
};

static struct options opt;
static int poller;
static char buffer[READ_SIZE];
static TAILQ_HEAD(, stream) lingering = TAILQ_HEAD_INITIALIZER(lingering); /* measured, in the order of end_by_ns */

static uint64_t start_ns, from_ns, to_ns, stop_ns, last_done_ns;
static uint64_t begun, wanted, live, open_heads; /* live: connections; open_heads: readers that have their head */
static bool announced;

static struct result result;

/* ---- the end of a stream ---- */

static void let_go(struct stream *s)
{
    if (s->measured) {
        TAILQ_REMOVE(&lingering, s, link);
    }
    if (s->fd >= 0) {
        close(s->fd);
    }
    free(s->request);
    free(s);
    live--;
}

static void fail(struct stream *s, const char *what, const char *detail)
{
    result_error(&result, what, detail);
    last_done_ns = now_ns();
    let_go(s);
}

/* The stream gave all that was asked of it. It gets a moment to end by itself: a cut would cost the server work. */
static void finish(struct stream *s)
{
    result.finished++;
    last_done_ns = s->read_ns;
    histogram_add(&result.last, s->read_ns - s->origin_ns);
    s->measured = true;
    s->end_by_ns = s->read_ns + (uint64_t)(opt.linger_s * 1e9);
    TAILQ_INSERT_TAIL(&lingering, s, link);
    if (opt.again && s->read_ns < to_ns) {
        wanted++;
    }
}

/* ---- tokens ---- */

static void take_token(struct stream *s)
{
    int64_t seq = (int64_t)s->finder.seq;
    if (s->next_seq == ANY_SEQ) {
        s->next_seq = seq;
    }
    if (seq < s->next_seq) {
        result.dups++;
        return;
    }
    result.gaps += (uint64_t)(seq - s->next_seq);
    s->next_seq = seq + 1;
    result.tokens++;
    if (s->seen++ == 0) {
        histogram_add(&result.first, s->read_ns - s->origin_ns);
    }
    if (s->read_ns >= from_ns && s->read_ns < to_ns) {
        result.in_window++;
        histogram_add(&result.lag, s->read_ns > s->finder.made_ns ? s->read_ns - s->finder.made_ns : 0);
    }
    bool complete = (opt.tokens > 0 && s->next_seq >= (int64_t)opt.tokens) || (opt.expect > 0 && s->seen >= opt.expect);
    if (complete && !opt.mode->holds) {
        finish(s);
    }
}

static void read_body_bytes(void *reader, const char *bytes, size_t len)
{
    struct stream *s = reader;
    if (s->posts || s->answer.status != 200) { /* kept: it names the job, or tells what went wrong */
        size_t room = ANSWER_TEXT - s->answer.text_len, keep = len < room ? len : room;
        memcpy(s->answer.text + s->answer.text_len, bytes, keep);
        s->answer.text_len += keep;
        s->answer.text[s->answer.text_len] = '\0';
        return;
    }
    const char *end = bytes + len;
    result.bytes += s->measured ? 0 : len;
    while (!s->measured && find_token(&s->finder, &bytes, end)) {
        take_token(s);
    }
}

/* ---- requests ---- */

static void write_request(struct stream *s, const char *method, const char *path, const char *id)
{
    const char *slot = strstr(path, "{id}");
    bool accepts = strcasestr(opt.headers, "accept:") != NULL, typed = strcasestr(opt.headers, "content-type:") != NULL;
    FILE *out = open_memstream(&s->request, &s->request_len);
    if (slot != NULL) {
        fprintf(out, "%s %.*s%s%s", method, (int)(slot - path), path, id, slot + 4);
    } else {
        fprintf(out, "%s %s", method, path);
    }
    fprintf(out, " HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n%s", opt.port, opt.headers);
    if (!s->posts && !accepts) {
        fprintf(out, "Accept: text/event-stream\r\n");
    }
    if (*method == 'P') {
        fprintf(out, "%sContent-Length: %zu\r\n\r\n", typed ? "" : "Content-Type: application/json\r\n", opt.body_len);
        fwrite(opt.body, 1, opt.body_len, out);
    } else if (opt.last_event_id != NULL) {
        fprintf(out, "Last-Event-ID: %s\r\n\r\n", opt.last_event_id);
    } else {
        fprintf(out, "\r\n");
    }
    fclose(out);
    s->request_sent = 0;
}

static bool dial(struct stream *s)
{
    struct epoll_event wish = {.events = EPOLLIN | EPOLLOUT, .data.ptr = s};
    s->fd = connect_to_loopback(opt.port);
    return s->fd >= 0 && epoll_ctl(poller, EPOLL_CTL_ADD, s->fd, &wish) == 0;
}

/* The socket takes bytes: sends what is left of the request, then waits for nothing but the answer. */
static bool send_request(struct stream *s)
{
    if (s->request_sent == 0 && s->origin_ns == 0) {
        s->origin_ns = now_ns();
    }
    ssize_t sent = send(s->fd, s->request + s->request_sent, s->request_len - s->request_sent, MSG_NOSIGNAL);
    if (sent < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    s->request_sent += (size_t)sent;
    bool all = s->request_sent == s->request_len;
    struct epoll_event wish = {.events = EPOLLIN | (all ? 0 : EPOLLOUT), .data.ptr = s};
    return epoll_ctl(poller, EPOLL_CTL_MOD, s->fd, &wish) == 0;
}

static void begin_stream(void)
{
    struct stream *s = must(calloc(1, sizeof *s));
    begun++;
    live++;
    s->posts = !opt.mode->reads && opt.get != NULL;
    s->next_seq = opt.first_seq;
    s->origin_ns = opt.mode->origin == FROM_START ? start_ns : opt.mode->origin == FROM_CONNECT ? now_ns() : 0;
    answer_begin(&s->answer);
    write_request(s, opt.mode->reads ? "GET" : "POST", opt.mode->reads ? opt.get : opt.post, "");
    if (!dial(s)) {
        fail(s, "connect: ", strerror(errno));
    }
}

/* The POST was answered: asks for the job's stream, on the same connection where the server keeps it. */
static void follow(struct stream *s)
{
    char id[ID_MAX] = "";
    const char *key = strstr(s->answer.text, "\"id\"");
    bool closes = s->answer.closes;
    if (key == NULL || sscanf(key + 4, " : \"%127[^\"]\"", id) != 1) {
        fail(s, "no id in the POST's answer: ", s->answer.text);
        return;
    }
    free(s->request);
    s->posts = false;
    write_request(s, "GET", opt.get, id);
    answer_begin(&s->answer);
    if (closes) {
        close(s->fd);
    }
    if (closes ? !dial(s) : !send_request(s)) {
        fail(s, "GET: ", strerror(errno));
    }
}

/* ---- answers ---- */

static void answer_complete(struct stream *s)
{
    if (s->measured) {
        let_go(s);
    } else if (s->answer.status / 100 != 2 || (s->answer.status != 200 && !s->posts)) {
        char status[32];
        snprintf(status, sizeof status, "HTTP %d: ", s->answer.status);
        fail(s, status, s->answer.text_len > 0 ? s->answer.text : "");
    } else if (s->posts) {
        follow(s);
    } else if (opt.tokens == 0 && opt.expect == 0 && !opt.mode->holds) {
        finish(s);
        let_go(s);
    } else {
        char seen[64];
        snprintf(seen, sizeof seen, "%llu tokens", (unsigned long long)s->seen);
        fail(s, "the answer ended early, after ", seen);
    }
}

static void receive(struct stream *s)
{
    ssize_t got = recv(s->fd, buffer, sizeof buffer, 0);
    bool had_head = s->answer.state != IN_HEAD;
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    s->read_ns = now_ns();
    if (got > 0) {
        answer_feed(&s->answer, buffer, (size_t)got, read_body_bytes, s);
    } else {
        answer_end(&s->answer);
    }
    if (!had_head && s->answer.status == 200 && !s->posts) {
        open_heads++;
    }
    if (s->answer.state == COMPLETE) {
        answer_complete(s);
    } else if (s->answer.state == BROKEN && s->measured) {
        let_go(s);
    } else if (s->answer.state == BROKEN) {
        fail(s, "the connection broke: ", got < 0 ? strerror(errno) : got == 0 ? "closed by the server" : "not HTTP");
    }
}

static void serve(struct stream *s, uint32_t ready)
{
    int why = 0;
    socklen_t size = sizeof why;
    if (ready & EPOLLERR && s->request_sent == 0) {
        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &why, &size);
    }
    if (why != 0) {
        fail(s, "connect: ", strerror(why));
    } else if (ready & EPOLLOUT && !send_request(s)) {
        fail(s, "send: ", strerror(errno));
    } else if (ready & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        receive(s);
    }
}

/* ---- the plan ---- */

/* When the next stream begins: evenly over the ramp; in series when nothing is under way; replacements at once. */
static uint64_t next_begin_ns(void)
{
    if (begun >= wanted) {
        return UINT64_MAX;
    }
    if (opt.mode->serial) {
        return live == 0 ? 0 : UINT64_MAX;
    }
    return begun >= opt.count ? 0 : start_ns + (uint64_t)(opt.ramp_s * 1e9 * (double)begun / (double)opt.count);
}

static void report(bool timed_out)
{
    uint64_t end_ns = last_done_ns > start_ns && !timed_out ? last_done_ns : now_ns();
    uint64_t finished = !opt.mode->holds ? result.finished : announced ? live : 0; /* held: open to the end */
    result.elapsed_s = (double)(end_ns - start_ns) / 1e9;
    result.window_s = fmax(0, fmin(opt.to_s, result.elapsed_s) - opt.from_s);
    printf("{\"mode\":\"%s\",\"timed_out\":%s,", opt.mode->name, timed_out ? "true" : "false");
    printf("\"begun\":%" PRIu64 ",\"finished\":%" PRIu64 ",\"unfinished\":%" PRIu64 ",",
           begun, finished, wanted - finished);
    result_print(&result);
    printf("}\n");
}

static void end_with_stdin(void)
{
    struct epoll_event wish = {.events = EPOLLIN, .data.ptr = NULL};
    announced = true;
    fflush(stdout);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &wish) != 0) {
        stop_ns = 0; /* a file or /dev/null: its end is here already */
    }
}

/* Held readers: says once that all have their head (or have failed), and begins to count the time of holding. */
static void announce_open(void)
{
    if (opt.mode->holds && !announced && open_heads + result.errors >= opt.count) {
        uint64_t until = isfinite(opt.hold_s) ? now_ns() + (uint64_t)(opt.hold_s * 1e9) : UINT64_MAX;
        stop_ns = until < stop_ns ? until : stop_ns;
        printf("open\n");
        end_with_stdin();
    }
}

/* Streams that stay: says what the window held as soon as it is over. */
static void announce_window(uint64_t now)
{
    if (opt.stay && !announced && now >= to_ns) {
        last_done_ns = now; /* the figures are of this moment */
        report(false);
        end_with_stdin();
    }
}

static int wait_ms(uint64_t now)
{
    uint64_t next = next_begin_ns();
    next = next < stop_ns ? next : stop_ns;
    if (opt.stay && !announced && to_ns < next) {
        next = to_ns;
    }
    if (!TAILQ_EMPTY(&lingering) && TAILQ_FIRST(&lingering)->end_by_ns < next) {
        next = TAILQ_FIRST(&lingering)->end_by_ns;
    }
    uint64_t ms = next <= now ? 0 : (next - now) / 1000000u + 1;
    return ms < 60000 ? (int)ms : 60000;
}

static void run(void)
{
    struct epoll_event events[EVENTS_A_TURN];
    char ignored[256];
    for (uint64_t now = now_ns(); now < stop_ns && (live > 0 || begun < wanted); now = now_ns()) {
        while (next_begin_ns() <= now) {
            begin_stream();
        }
        int ready = epoll_wait(poller, events, EVENTS_A_TURN, wait_ms(now_ns()));
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr != NULL) {
                serve(events[i].data.ptr, events[i].events);
            } else if (read(STDIN_FILENO, ignored, sizeof ignored) <= 0) {
                stop_ns = 0;
            }
        }
        for (now = now_ns(); !TAILQ_EMPTY(&lingering) && TAILQ_FIRST(&lingering)->end_by_ns <= now;) {
            let_go(TAILQ_FIRST(&lingering));
        }
        announce_open();
        announce_window(now);
    }
}

static uint64_t after_start(double seconds)
{
    return isfinite(seconds) ? start_ns + (uint64_t)(seconds * 1e9) : UINT64_MAX;
}

int main(int argc, char **argv)
{
    opt = read_options(argc, argv);
    wanted = opt.count;
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    poller = epoll_create1(EPOLL_CLOEXEC);
    start_ns = now_ns();
    from_ns = after_start(opt.from_s);
    to_ns = after_start(opt.to_s);
    uint64_t deadline_ns = stop_ns = after_start(opt.timeout_s);
    run();
    if (!opt.stay || !announced) {
        report(stop_ns == deadline_ns && now_ns() >= deadline_ns);
    }
    return 0;
}
