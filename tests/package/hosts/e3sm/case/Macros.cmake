set(FFLAGS "-O2 -ffree-line-length-none")
