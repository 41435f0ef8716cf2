/* DIR/run: `run [--] COMMAND…` is `crannog run [--] COMMAND…` with the Python of its directory.
 * docs/formats/launcher.md says what it does and what it refuses. */

#include "common.h"

BEGIN(begin);

__attribute__((used, noreturn)) void begin(long *stack)
{
    static char directory[PATH_SIZE], libraries[PATH_SIZE], script[PATH_SIZE];
    static char *nothing[] = {NULL};
    struct start start = read_start(stack);
    own_path(directory);
    cut(directory);
    for (const char *each = directory; *each; each++)
        if (*each == ':')
            fail(REFUSED, "the directory's path holds a colon, which its loader interprets",
                 directory, 0);
    join(libraries, directory, "/lib", "");
    join(script, directory, "/start.py", "");
    /* One arena: glibc looks up /proc/sys/vm/overcommit_memory to shrink those of threads. */
    start_python(directory, libraries, script, start.argc ? start.argv + 1 : nothing, "first.so",
                 "MALLOC_ARENA_MAX=1", start.environment);
}
