/* The kernels for NEON, which every 64-bit Arm processor has. */
#include "model.h"

#if EMU_WITH_NEON
#define EMU_ISA_NEON 1
#include "kernels.c"
#else
typedef int emu_no_neon; /* a file may not be empty */
#endif
