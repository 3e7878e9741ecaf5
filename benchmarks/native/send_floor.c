/* The floor of fan-out: what one send() of a small frame to each of many sockets costs in C; no server can undercut it.

   send_floor SOCKETS BYTES TICKS RATE

   One process writes, every 1/RATE s one send() of BYTES to each of SOCKETS loopback connections; another reads them.
   Prints the writer's own CPU a send (which on loopback holds the kernel's delivery to the receiving socket, as it does
   for any server measured here) and how long one pass over all sockets took. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "histogram.h"
#include "system.h"

enum { EVENTS_A_TURN = 512, READ_SIZE = 1 << 16, WARM_UP_TICKS = 5, RUN_MAX_S = 300 };

/* Takes the connections and reads them until all are closed. Ends with the writer at the latest. */
static void read_all(int listener, unsigned sockets)
{
    static char bytes[READ_SIZE];
    struct epoll_event events[EVENTS_A_TURN], wish = {.events = EPOLLIN};
    int poller = epoll_create1(0);
    unsigned taken = 0, ended = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    wish.data.fd = listener;
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &wish);
    while (ended < sockets) {
        int ready = epoll_wait(poller, events, EVENTS_A_TURN, RUN_MAX_S * 1000);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                if (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) == 0) {
                    close(fd);
                    ended++;
                }
                continue;
            }
            while (taken < sockets && (wish.data.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                epoll_ctl(poller, EPOLL_CTL_ADD, wish.data.fd, &wish);
                taken++;
            }
        }
    }
}

static int *connect_all(uint16_t port, unsigned sockets)
{
    int *fds = must(calloc(sockets, sizeof *fds));
    for (unsigned i = 0; i < sockets; i++) {
        struct sockaddr_in address = loopback(port);
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (fds[i] < 0 || connect(fds[i], (struct sockaddr *)&address, sizeof address) != 0) {
            die("connect");
        }
        set_nodelay(fds[i]);
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
    }
    return fds;
}

/* One send() to each; returns how many a full socket refused. */
static uint64_t send_to_all(const int *fds, unsigned sockets, const char *frame, size_t len)
{
    uint64_t refused = 0;
    for (unsigned i = 0; i < sockets; i++) {
        refused += send(fds[i], frame, len, MSG_NOSIGNAL) != (ssize_t)len;
    }
    return refused;
}

static void sleep_until(uint64_t ns)
{
    struct timespec until = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
}

static void write_all(const int *fds, unsigned sockets, size_t len, unsigned ticks, double rate)
{
    static struct histogram pass;
    char *frame = must(malloc(len));
    uint64_t began = now_ns(), refused = 0;
    double cpu = 0;
    memset(frame, 'x', len);
    for (unsigned tick = 0; tick < ticks + WARM_UP_TICKS; tick++) {
        sleep_until(began + (uint64_t)((double)tick / rate * 1e9));
        if (tick == WARM_UP_TICKS) { /* the first touch of buffers and windows is not the floor */
            cpu = cpu_seconds();
            refused = 0;
        }
        uint64_t before = now_ns();
        refused += send_to_all(fds, sockets, frame, len);
        if (tick >= WARM_UP_TICKS) {
            histogram_add(&pass, now_ns() - before);
        }
    }
    cpu = cpu_seconds() - cpu;
    double sends = (double)sockets * ticks;
    printf("{\"sockets\":%u,\"bytes\":%zu,\"ticks\":%u,\"rate\":%g,", sockets, len, ticks, rate);
    printf("\"sends\":%.0f,\"refused\":%" PRIu64 ",\"cpu_s\":%.4f,\"cpu_us_per_send\":%.3f,",
           sends, refused, cpu, cpu / sends * 1e6);
    histogram_print(stdout, "pass_us", &pass);
    printf("}\n");
}

int main(int argc, char **argv)
{
    unsigned sockets = argc == 5 ? (unsigned)atoi(argv[1]) : 0, ticks = argc == 5 ? (unsigned)atoi(argv[3]) : 0;
    int bytes = argc == 5 ? atoi(argv[2]) : 0;
    double rate = argc == 5 ? atof(argv[4]) : 0;
    if (sockets == 0 || bytes <= 0 || ticks == 0 || rate <= 0 || ticks / rate > RUN_MAX_S) {
        fprintf(stderr, "usage: send_floor SOCKETS BYTES TICKS RATE   (TICKS / RATE at most %d s)\n", RUN_MAX_S);
        return 2;
    }
    uint16_t port = 0;
    raise_descriptor_limit();
    int listener = listen_on_loopback(&port);
    pid_t reader = fork();
    if (reader < 0) {
        die("fork");
    }
    if (reader == 0) {
        read_all(listener, sockets);
        _exit(0);
    }
    int *fds = connect_all(port, sockets);
    write_all(fds, sockets, (size_t)bytes, ticks, rate);
    for (unsigned i = 0; i < sockets; i++) {
        close(fds[i]);
    }
    waitpid(reader, NULL, 0);
    return 0;
}
