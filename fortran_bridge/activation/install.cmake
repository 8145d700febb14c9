# Included by CMakeLists.txt: the drop-in as component `activation` of the installed package, libemulator::activation, with
# its modules (one compiler's) and, for hosts that compile it themselves, its sources.
if(NOT LIBEMULATOR_ACTIVATION OR NOT TARGET aerosol_activation_emulator)
  return()
endif()
include(GNUInstallDirs)
set(activation_modules ${CMAKE_INSTALL_INCLUDEDIR}/libemulator/activation)
set_target_properties(aerosol_activation_emulator PROPERTIES EXPORT_NAME activation)
set_target_properties(aerosol_activation PROPERTIES EXPORT_NAME activation_arg)
foreach(target aerosol_activation aerosol_activation_emulator)
  set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES
    "$<BUILD_INTERFACE:${CMAKE_CURRENT_BINARY_DIR}/modules>;$<INSTALL_INTERFACE:${activation_modules}>")
endforeach()
install(TARGETS aerosol_activation aerosol_activation_emulator EXPORT libemulatorTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/modules/ DESTINATION ${activation_modules} FILES_MATCHING PATTERN "*.mod")

get_target_property(activation_sources aerosol_activation SOURCES)
get_target_property(activation_emulator_sources aerosol_activation_emulator SOURCES)
install(FILES ${activation_sources} ${activation_emulator_sources} DESTINATION ${CMAKE_INSTALL_DATADIR}/libemulator/activation)
install(DIRECTORY e3sm DESTINATION ${CMAKE_INSTALL_DATADIR}/libemulator)

file(RELATIVE_PATH pc_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
string(REGEX REPLACE "/$" "" pc_prefix "${pc_prefix}")
configure_file(libemulator-activation.pc.in ${CMAKE_CURRENT_BINARY_DIR}/libemulator-activation.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/libemulator-activation.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
