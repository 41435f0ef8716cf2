/* Loaded before every other library of the launcher: nobody reads its memory, and no core file is
 * written, from before Python's first instruction on. */

#include "common.h"

#define PR_SET_DUMPABLE 4

__attribute__((constructor)) static void first(void)
{
    if (system_call(NR_PRCTL, PR_SET_DUMPABLE, 0, 0, 0, 0, 0))
        fail(REFUSED, "prctl(PR_SET_DUMPABLE)", NULL, 0);
}
