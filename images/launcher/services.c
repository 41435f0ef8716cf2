/* /opt/crannog/bin/crannog and, by a link, scone: the command line with the Python of /crannog.
 * `crannog run` is /crannog/run, so that there is one launcher in an image. */

#include "common.h"

#define LAUNCHER "/crannog"

BEGIN(begin);

__attribute__((used, noreturn)) void begin(long *stack)
{
    static char directory[PATH_SIZE], libraries[PATH_SIZE], script[PATH_SIZE];
    struct start start = read_start(stack);
    const char *name = start.argc ? last_component(start.argv[0]) : "crannog";
    if (start.argc > 1 && same(start.argv[1], "run")) {
        start.argv[1] = "run";
        replace(LAUNCHER "/run", start.argv + 1, start.environment);
    }
    own_path(directory);
    cut(directory);
    cut(directory);
    for (const char *each = directory; *each; each++)
        if (*each == ':')
            fail(REFUSED, "the directory's path holds a colon, which the loader interprets",
                 directory, 0);
    join(libraries, directory, "/lib:", LAUNCHER "/lib");
    join(script, directory, "/start.py", "");
    char **arguments = pointers((size)start.argc + 2);
    arguments[0] = same(name, "scone") ? "scone" : "crannog";
    for (long each = 1; each < start.argc; each++)
        arguments[each] = start.argv[each];
    start_python(LAUNCHER, libraries, script, arguments, NULL, NULL, start.environment);
}
