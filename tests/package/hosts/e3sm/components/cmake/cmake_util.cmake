# Stand-in: the sources of a component, relative to components/, in SOURCES_RESULT
function(gather_sources folders)
  set(found)
  foreach(folder ${folders})
    file(GLOB matches RELATIVE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/${folder}/*.F90")
    list(APPEND found ${matches})
  endforeach()
  set(SOURCES_RESULT ${found} PARENT_SCOPE)
endfunction()
