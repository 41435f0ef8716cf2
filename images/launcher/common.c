#include "common.h"

#define AT_FDCWD (-100)
#define F_GETFD 1
#define F_SETFD 2
#define F_ADD_SEALS 1033
#define SEALS 0xf /* SEAL, SHRINK, GROW, WRITE */
#define MFD_ALLOW_SEALING 2
#define EINTR 4
#define EBADF 9
#define PROT_READ_WRITE 3
#define MAP_PRIVATE_ANONYMOUS 0x22
#define FIRST_FREE 3
#define AT_SYMLINK_NOFOLLOW 0x100
#define AT_EMPTY_PATH 0x1000
#define STATX_TYPE 1
#define S_IFMT 0170000
#define S_IFREG 0100000
#define O_WRONLY 01
#define O_NOCTTY 0400
#define O_APPEND 02000
#define O_NONBLOCK 04000
#define O_CLOEXEC 02000000
#define MESSAGE_SIZE 4000 /* as crannog.runtime.termination.LIMIT */

/* The kernel's struct statx, as far as it is used. */
struct file_status {
    unsigned char before[28];
    unsigned short mode;
    unsigned char rest[226];
};

static char *const *variables;

static long call(long number, long a, long b, long c)
{
    return system_call(number, a, b, c, 0, 0, 0);
}

size length(const char *text)
{
    size count = 0;
    while (text[count])
        count++;
    return count;
}

int same(const char *one, const char *other)
{
    while (*one && *one == *other) {
        one++;
        other++;
    }
    return *one == *other;
}

const char *after(const char *text, const char *start)
{
    while (*start)
        if (*text++ != *start++)
            return NULL;
    return text;
}

static char *put(char *to, char *end, const char *text)
{
    while (*text && to < end)
        *to++ = *text++;
    return to;
}

static char *put_number(char *to, char *end, unsigned long number)
{
    char digits[24];
    char *start = digits + sizeof digits - 1;
    *start = 0;
    do
        *--start = (char)('0' + number % 10);
    while (number /= 10);
    return put(to, end, start);
}

static int is_regular(long directory, const char *path, int flags)
{
    struct file_status found;
    return system_call(NR_STATX, directory, (long)path, flags, STATX_TYPE, (long)&found, 0) == 0 &&
           (found.mode & S_IFMT) == S_IFREG;
}

/* Nothing is created or emptied, no link followed, and what is no regular file not even opened. */
static void leave_reason(const char *line, size count)
{
    const char *path = "/dev/termination-log";
    for (char *const *each = variables; each && *each; each++) {
        const char *named = after(*each, "CRANNOG_TERMINATION_LOG=");
        if (named && *named == '/')
            path = named;
    }
    if (!is_regular(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW))
        return;
    long file = system_call(
        NR_OPENAT, AT_FDCWD, (long)path,
        O_WRONLY | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0, 0, 0);
    if (file >= 0 && is_regular(file, "", AT_EMPTY_PATH))
        call(NR_WRITE, file, (long)line, (long)(count < MESSAGE_SIZE ? count : MESSAGE_SIZE));
}

void fail(int status, const char *what, const char *path, long error)
{
    /* One write, so that lines of several processes do not mix. Control characters are a
     * terminal's commands, and a path may hold them. */
    char line[PATH_SIZE + 256];
    char *end = line + sizeof line - 1;
    char *to = put(line, end, "crannog: error: ");
    to = put(to, end, what);
    if (path) {
        to = put(to, end, ": ");
        char *from = to;
        to = put(to, end, path);
        for (; from < to; from++)
            if ((unsigned char)*from < 32 || *from == 127)
                *from = '?';
    }
    if (error) {
        to = put(to, end, ": error ");
        to = put_number(to, end, (unsigned long)-error);
    }
    *to++ = '\n';
    call(NR_WRITE, 2, (long)line, to - line);
    if (call(NR_GETPID, 0, 0, 0) == 1)
        leave_reason(line, (size)(to - line));
    for (;;)
        call(NR_EXIT_GROUP, status, 0, 0);
}

struct start read_start(long *stack)
{
    struct start start = {stack[0], (char **)(stack + 1), NULL};
    start.environment = start.argv + start.argc + 1;
    variables = start.environment;
    return start;
}

void join(char result[PATH_SIZE], const char *first, const char *second, const char *third)
{
    char *end = result + PATH_SIZE - 1;
    char *to = put(put(put(result, end, first), end, second), end, third);
    if (length(first) + length(second) + length(third) >= PATH_SIZE)
        fail(REFUSED, "a path is too long", first, 0);
    *to = 0;
}

void own_path(char result[PATH_SIZE])
{
    static const char gone[] = " (deleted)";
    long count = system_call(NR_READLINKAT, AT_FDCWD, (long)"/proc/self/exe", (long)result,
                             PATH_SIZE, 0, 0);
    if (count < 0)
        fail(REFUSED, "/proc/self/exe cannot be read; is /proc mounted?", NULL, count);
    if (count >= PATH_SIZE - 1)
        fail(REFUSED, "the path of this program is too long", NULL, 0);
    result[count] = 0;
    if (*result != '/')
        fail(REFUSED, "this program is not below the root directory", result, 0);
    size tail = sizeof gone - 1;
    if ((size)count > tail && same(result + count - tail, gone))
        fail(REFUSED, "this program has been removed", result, 0);
}

void cut(char *path)
{
    char *slash = path;
    for (char *each = path; *each; each++)
        if (*each == '/')
            slash = each;
    *slash = 0;
}

const char *last_component(const char *path)
{
    const char *name = path;
    for (; *path; path++)
        if (*path == '/')
            name = path + 1;
    return name;
}

char **pointers(size count)
{
    long found = system_call(NR_MMAP, 0, (long)(count * sizeof(char *)), PROT_READ_WRITE,
                             MAP_PRIVATE_ANONYMOUS, -1, 0);
    if (found < 0 && found > -4096)
        fail(REFUSED, "no memory", NULL, found);
    return (char **)found;
}

static int memory_file(const char *name)
{
    long found = call(NR_MEMFD_CREATE, (long)name, MFD_ALLOW_SEALING, 0);
    if (found < 0)
        fail(REFUSED, "memfd_create", NULL, found);
    return (int)found;
}

static void seal(int descriptor)
{
    long result = call(NR_FCNTL, descriptor, F_ADD_SEALS, SEALS);
    if (result < 0)
        fail(REFUSED, "a file in memory cannot be sealed", NULL, result);
}

void fill_standard_descriptors(void)
{
    for (int each = 0; each < FIRST_FREE; each++) {
        if (call(NR_FCNTL, each, F_GETFD, 0) != -EBADF)
            continue;
        /* The lowest free number is taken, and all below this one are open. */
        seal(memory_file("closed"));
    }
}

static void write_all(int descriptor, const char *from, size count)
{
    while (count) {
        long written = call(NR_WRITE, descriptor, (long)from, (long)count);
        if (written == -EINTR)
            continue;
        if (written <= 0)
            fail(REFUSED, "the environment cannot be kept", NULL, written);
        from += written;
        count -= (size)written;
    }
}

int keep_environment(char *const *environment)
{
    int descriptor = memory_file("environment");
    while (*environment) {
        /* The kernel lays the strings one after another: as a rule one write takes them all. */
        const char *from = *environment;
        const char *end = from;
        while (*environment == end) {
            end += length(end) + 1;
            environment++;
        }
        write_all(descriptor, from, (size)(end - from));
    }
    seal(descriptor);
    return descriptor;
}

void number_variable(char *result, const char *name, int number)
{
    char *end = result + length(name) + 24;
    char *to = put(put(result, end, name), end, "=");
    *put_number(to, end, (unsigned long)number) = 0;
}

void replace(const char *path, char *const *argv, char *const *environment)
{
    long error = call(NR_EXECVE, (long)path, (long)argv, (long)environment);
    fail(NOT_FOUND, "cannot be executed", path, error);
}

void start_python(const char *directory, const char *libraries, const char *script,
                  char *const *arguments, const char *first_library, char *variable,
                  char *const *environment)
{
    static char loader[PATH_SIZE], python[PATH_SIZE];
    static char openssl[PATH_SIZE], modules[PATH_SIZE], engines[PATH_SIZE];
    static char zone[PATH_SIZE];
    static char kept[64];
    for (const char *each = libraries; *each; each++)
        if (*each == ';' || *each == '$')
            fail(REFUSED, "the directory's path holds a character that its loader interprets",
                 directory, 0);
    fill_standard_descriptors();
    number_variable(kept, "CRANNOG_ENVIRONMENT_FD", keep_environment(environment));
    join(loader, directory, "/lib/ld.so", "");
    join(python, directory, "/bin/python3", "");
    join(openssl, "OPENSSL_CONF=", directory, "/etc/openssl.cnf");
    join(modules, "OPENSSL_MODULES=", directory, "/lib/ossl-modules");
    join(engines, "OPENSSL_ENGINES=", directory, "/lib/ossl-engines");
    join(zone, "TZ=:", directory, "/etc/utc");
    char *clean[] = {"LC_ALL=C", openssl, modules, engines, zone, kept, variable, NULL};
    const char *before[] = {
        "ld.so", "--inhibit-cache", "--library-path", libraries, "--argv0", python, NULL, NULL,
        NULL,
    };
    const char *options[] = {python, "-I", "-S", "-B", "-X", "utf8", script};
    size count = 6;
    if (first_library) {
        before[count++] = "--preload";
        before[count++] = first_library;
    }
    size given = 0;
    while (arguments[given])
        given++;
    char **argv = pointers(count + ENTRIES(options) + given + 1);
    size next = 0;
    for (size each = 0; each < count; each++)
        argv[next++] = (char *)before[each];
    for (size each = 0; each < ENTRIES(options); each++)
        argv[next++] = (char *)options[each];
    for (size each = 0; each < given; each++)
        argv[next++] = arguments[each];
    replace(loader, argv, clean);
}
