/* dlopens each argument, or maps it as asked: exec:PATH, private:PATH, shared:PATH; memfd:PATH copies
 * it into a memfd first; jit makes code in anonymous memory and runs it. A line for each. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *mapped(const char *path, int protection, int flags) {
    int file = open(path, O_RDONLY);
    if (file < 0) return strerrorname_np(errno);
    void *at = mmap(NULL, 4096, protection, flags, file, 0);
    const char *error = at == MAP_FAILED ? strerrorname_np(errno) : "mapped";
    close(file);
    return error;
}

static const char *loaded(const char *path) {
    return dlopen(path, RTLD_NOW) ? "loaded" : "refused";
}

static const char *from_memfd(const char *path) {
    static char data[1 << 20], name[64];
    int from = open(path, O_RDONLY), to = memfd_create("copy", 0);
    ssize_t size = read(from, data, sizeof data);
    if (write(to, data, size) != size) return "short";
    snprintf(name, sizeof name, "/proc/self/fd/%d", to);
    return loaded(name);
}

static const char *jit(void) {
#if defined(__x86_64__)
    static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3};
#else
    static const unsigned char code[] = {0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6};
#endif
    void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(at, code, sizeof code);
    if (mprotect(at, 4096, PROT_READ | PROT_EXEC)) return "refused";
    return ((int (*)(void))at)() == 42 ? "ran" : "wrong";
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        char *colon = strchr(argv[i], ':');
        const char *path = colon ? colon + 1 : argv[i], *said;
        if (!strcmp(argv[i], "jit")) said = jit();
        else if (!colon) said = loaded(path);
        else if (!strncmp(argv[i], "exec:", 5)) said = mapped(path, PROT_READ | PROT_EXEC, MAP_SHARED);
        else if (!strncmp(argv[i], "private:", 8)) said = mapped(path, PROT_READ, MAP_PRIVATE);
        else if (!strncmp(argv[i], "shared:", 7)) said = mapped(path, PROT_READ, MAP_SHARED);
        else said = from_memfd(path);
        puts(said);
        fflush(stdout);
    }
    return 0;
}
