/* A disk that fails on demand: write and sync of the files with FAULTY and ALSO in their path do what the file CONTROL says,
 * "write 5" = EIO, "write 28" = ENOSPC, "sync 5", "write -300" = 300 ms late, "sync -5000". Without that file, nothing.
 * A clock that jumps: the wall clock is as many seconds ahead as the file CLOCK says.
 * Loaded into every process of a mesh by a private /etc/ld.so.preload. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* What the control file says of `operation`; 0 when it says nothing, or when the file is none of ours. */
static int fault(int fd, const char *operation) {
    char link[64], path[4096], said[64] = {0};
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (!strstr(path, FAULTY) || !strstr(path, ALSO)) return 0;
    int control = open(CONTROL, O_RDONLY | O_CLOEXEC);
    if (control < 0) return 0;
    ssize_t got = read(control, said, sizeof said - 1);
    close(control);
    size_t word = strlen(operation);
    return got > 0 && !strncmp(said, operation, word) && said[word] == ' ' ? atoi(said + word + 1) : 0;
}

/* Late, failed, or fine (0). */
static int suffer(int fd, const char *operation) {
    int what = fault(fd, operation);
    if (what < 0) {
        struct timespec pause = {-what / 1000, (-what % 1000) * 1000000L};
        nanosleep(&pause, NULL);
        return 0;
    }
    errno = what;
    return what;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    return suffer(fd, "write") ? -1 : syscall(SYS_write, fd, bytes, length);
}

int fdatasync(int fd) { return suffer(fd, "sync") ? -1 : (int)syscall(SYS_fdatasync, fd); }

int fsync(int fd) { return suffer(fd, "sync") ? -1 : (int)syscall(SYS_fsync, fd); }

/* How far ahead the wall clock is. */
static long ahead(void) {
    char said[32] = {0};
    int file = open(CLOCK, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t got = read(file, said, sizeof said - 1);
    close(file);
    return got > 0 ? atol(said) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int before = errno;
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) {
        now->tv_sec += ahead();
        errno = before;
    }
    return failed;
}
