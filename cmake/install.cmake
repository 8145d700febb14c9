# Included by fortran_bridge/CMakeLists.txt: what is installed where.

set(origin "$ORIGIN") # the folder of what is loaded
if(APPLE)
  set(origin "@loader_path")
endif()

if(libemulator_for_wheel)
  # Inside the Python package: emulator/lib/libemulator.so, emulator/include, emulator/bin
  set_target_properties(libemulator PROPERTIES VERSION "" SOVERSION "") # a wheel cannot hold links
  install(TARGETS libemulator
    LIBRARY DESTINATION emulator/lib
    ARCHIVE DESTINATION emulator/lib
    RUNTIME DESTINATION emulator/lib
    PUBLIC_HEADER DESTINATION emulator/include)
  if(LIBEMULATOR_TOOLS)
    set_target_properties(emu-info emu-bench PROPERTIES INSTALL_RPATH "${origin}/../lib")
    install(TARGETS emu-info emu-bench RUNTIME DESTINATION emulator/bin)
  endif()
  return()
endif()

include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/libemulator)

set(installed_targets libemulator)
if(LIBEMULATOR_FORTRAN)
  list(APPEND installed_targets libemulator_fortran)
endif()
file(RELATIVE_PATH from_bin_to_lib "/${CMAKE_INSTALL_BINDIR}" "/${CMAKE_INSTALL_LIBDIR}")
set_target_properties(${installed_targets} PROPERTIES INSTALL_RPATH "${origin}")
install(TARGETS ${installed_targets} EXPORT libemulatorTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  PUBLIC_HEADER DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(LIBEMULATOR_FORTRAN)
  # Modules serve one compiler; the sources go with them for hosts that use another.
  install(FILES ${libemulator_module_dir}/libemulator.mod ${libemulator_module_dir}/libemulator_c.mod
    ${libemulator_module_dir}/libemulator_guard.mod
    DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/libemulator)
  install(FILES fortran/libemulator.F90 fortran/libemulator_c.F90 fortran/libemulator_guard.F90 fortran/fortran_handle.c
    fortran/fortran_infer.c
    DESTINATION ${CMAKE_INSTALL_DATADIR}/libemulator/fortran)
endif()
if(LIBEMULATOR_TOOLS)
  set_target_properties(emu-info emu-bench PROPERTIES INSTALL_RPATH "${origin}/${from_bin_to_lib}")
  install(TARGETS emu-info emu-bench RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

install(EXPORT libemulatorTargets NAMESPACE libemulator:: DESTINATION ${package_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/libemulatorConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/libemulatorConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/libemulatorConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/libemulatorConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/libemulatorConfigVersion.cmake DESTINATION ${package_dir})

# pkg-config: paths relative to the file itself, so that the tree may be moved
file(RELATIVE_PATH pc_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
string(REGEX REPLACE "/$" "" pc_prefix "${pc_prefix}")
set(pc_static_libs) # what a consumer of the static library must link
if(NOT BUILD_SHARED_LIBS)
  set(pc_static_libs " -lm -pthread")
  if(CMAKE_DL_LIBS)
    string(APPEND pc_static_libs " -l${CMAKE_DL_LIBS}")
  endif()
endif()
foreach(name libemulator libemulator-fortran)
  if(name STREQUAL "libemulator" OR LIBEMULATOR_FORTRAN)
    configure_file(${PROJECT_SOURCE_DIR}/cmake/${name}.pc.in ${CMAKE_CURRENT_BINARY_DIR}/${name}.pc @ONLY)
    install(FILES ${CMAKE_CURRENT_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
  endif()
endforeach()
