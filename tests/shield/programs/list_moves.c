/* Reads a directory by getdents and getdents64 in small pieces, through duplicates of its descriptor,
 * and with rewinddir, telldir and seekdir. Prints a line per check that fails, then "done". */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct old_entry { unsigned long inode, after; unsigned short length; char name[]; };
struct new_entry { unsigned long long inode; long long after; unsigned short length; unsigned char kind; char name[]; };

static void fail(const char *what) { printf("failed: %s\n", what); }

/* Reads through `one` and `other` in turn; returns how many names there were. */
static int read_in_turn(int one, int other, size_t room, int old) {
    char buffer[65536];
    int names = 0, turn = 0;
    for (;;) {
        int from = turn++ % 2 ? other : one;
        long size = old ? syscall(SYS_getdents, from, buffer, room)
                        : syscall(SYS_getdents64, from, buffer, room);
        if (size < 0) { fail(strerror(errno)); return -1; }
        if (size == 0) return names;
        for (long at = 0; at < size; names++)
            at += old ? ((struct old_entry *)(buffer + at))->length
                      : ((struct new_entry *)(buffer + at))->length;
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int expected = atoi(argv[2]);
    int directory = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int twin = dup(directory);
    for (int old = 0; old < 2; old++) {
#ifndef SYS_getdents
        if (old) continue;
#endif
        lseek(directory, 0, SEEK_SET);
        if (read_in_turn(directory, twin, 128, old) != expected) fail("through a duplicate");
        lseek(twin, 0, SEEK_SET);
        if (read_in_turn(directory, directory, 4096, old) != expected) fail("after lseek on a duplicate");
    }
    if (!(fcntl(directory, F_GETFD) & FD_CLOEXEC)) fail("close-on-exec was lost");
    if (fcntl(twin, F_GETFD) & FD_CLOEXEC) fail("close-on-exec was added");

    lseek(directory, 0, SEEK_SET);
    char buffer[256];
    long first = syscall(SYS_getdents64, directory, buffer, 128);
    int rest = 0;
    pid_t child = fork();
    if (child == 0) _exit(read_in_turn(directory, directory, 4096, 0));
    int status;
    waitpid(child, &status, 0);
    for (long at = 0; at < first; rest++) at += ((struct new_entry *)(buffer + at))->length;
    if (WEXITSTATUS(status) + rest != expected) fail("a child goes on where its parent was");
    if (syscall(SYS_getdents64, directory, buffer, 128) != 0) fail("the parent is where its child was");
    if (syscall(SYS_getdents64, directory, buffer, 128) != 0) fail("the end stays the end");
    lseek(directory, 0, SEEK_SET);
    if (syscall(SYS_getdents64, directory, buffer, 8) != -1 || errno != EINVAL) fail("a small buffer");

    DIR *stream = opendir(argv[1]);
    struct dirent *entry;
    long places[64];
    char names[64][256];
    int count = 0;
    while (count < 64) {
        places[count] = telldir(stream);
        if (!(entry = readdir(stream))) break;
        strcpy(names[count++], entry->d_name);
        struct stat found;
        if (fstatat(dirfd(stream), entry->d_name, &found, AT_SYMLINK_NOFOLLOW)) fail(entry->d_name);
        else if (found.st_ino != entry->d_ino && strcmp(entry->d_name, "..")) fail("an inode number");
        else if (entry->d_type != DT_UNKNOWN && entry->d_type != IFTODT(found.st_mode)) fail("a type");
    }
    for (int i = count - 1; i >= 0; i--) {
        seekdir(stream, places[i]);
        if (!(entry = readdir(stream)) || strcmp(entry->d_name, names[i])) fail("seekdir");
    }
    rewinddir(stream);
    if (!(entry = readdir(stream)) || strcmp(entry->d_name, names[0])) fail("rewinddir");
    puts("done");
    return 0;
}
