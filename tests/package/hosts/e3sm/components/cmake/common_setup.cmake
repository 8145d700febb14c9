# Stand-in: the case's settings, within the function build_model
include(${CASEROOT}/Macros.cmake)
set(CPPDEFS "${CPPDEFS} -DHAVE_MPI")
string(FIND "${CAM_CONFIG_OPTS}" "-rrtmgpxx" HAS_RRTMGPXX)
