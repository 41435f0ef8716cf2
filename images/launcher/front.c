/* An image's python3: the launcher where a start is to be measured, attested or reaped, and the
 * interpreter itself, unchanged, everywhere else. The interpreter lies at
 * <directory>/../libexec/crannog/<name>, seen from this file. */

#include "common.h"

#define LAUNCHER "/crannog/run"

BEGIN(begin);

static int wanted(char *const *environment)
{
    static const char *const names[] = {
        "SCONE_CONFIG_ID=", "SCONE_CAS_ADDR=", "SCONE_HASH=", "SCONE_VERSION=", "SCONE_FSPF=",
    };
    for (; *environment; environment++)
        for (size each = 0; each < ENTRIES(names); each++) {
            const char *value = after(*environment, names[each]);
            if (value && *value && !(each == 2 && same(value, "0")))
                return 1;
        }
    return 0;
}

static int has_slash(const char *text)
{
    while (*text && *text != '/')
        text++;
    return *text;
}

__attribute__((used, noreturn)) void begin(long *stack)
{
    static char self[PATH_SIZE], above[PATH_SIZE], real[PATH_SIZE];
    struct start start = read_start(stack);
    own_path(self);
    if (!wanted(start.environment) && system_call(NR_GETPID, 0, 0, 0, 0, 0, 0) != 1) {
        join(above, self, "", "");
        cut(above);
        cut(above);
        join(real, above, "/libexec/crannog/", last_component(self));
        replace(real, start.argv, start.environment);
    }
    char **argv = pointers((size)start.argc + 4);
    size next = 0;
    argv[next++] = "run";
    argv[next++] = "--";
    argv[next++] = start.argc && has_slash(start.argv[0]) ? start.argv[0] : self;
    for (long each = 1; each < start.argc; each++)
        argv[next++] = start.argv[each];
    replace(LAUNCHER, argv, start.environment);
}
