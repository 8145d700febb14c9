# Stand-in for E3SM's file of that name
if (USE_PETSC)
  find_package(PETSc REQUIRED)
endif()

find_package(gptl REQUIRED)
