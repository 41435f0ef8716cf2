/* A library whose constructor says that it ran. */
#include <stdio.h>
__attribute__((constructor)) static void begin(void) { puts("constructor ran"); fflush(stdout); }
int part(void) { return 42; }
