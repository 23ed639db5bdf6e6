# cmake --install: the programs, libretort for C (Retort::retort, retort.pc), the layers up to runtime for C++ (Retort::runtime and
# those below it, retort-cpp.pc), recipes, examples and documentation. docs/embedding.md says how they are used.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(retort_cpp_layers base kernels model mixers io runtime)
set(retort_package ${CMAKE_INSTALL_LIBDIR}/cmake/Retort)

install(TARGETS retort RUNTIME)
if(RETORT_TRAIN)
  install(TARGETS retort-train RUNTIME)
endif()
install(TARGETS retort_shared EXPORT RetortTargets LIBRARY)
install(FILES ${CMAKE_SOURCE_DIR}/include/retort/retort.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/retort)
foreach(layer ${retort_cpp_layers})
  set_target_properties(retort_${layer} PROPERTIES EXPORT_NAME ${layer})
  target_compile_features(retort_${layer} INTERFACE cxx_std_20)
  install(TARGETS retort_${layer} EXPORT RetortCppTargets ARCHIVE)
  # They include each other as "runtime/model.h": include/retort is their include folder.
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/src/${layer} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/retort FILES_MATCHING PATTERN *.h)
endforeach()
install(EXPORT RetortTargets NAMESPACE Retort:: DESTINATION ${retort_package})
install(EXPORT RetortCppTargets NAMESPACE Retort:: DESTINATION ${retort_package})

configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/RetortConfig.cmake.in ${CMAKE_BINARY_DIR}/install/RetortConfig.cmake
  INSTALL_DESTINATION ${retort_package})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/install/RetortConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/install/RetortConfig.cmake ${CMAKE_BINARY_DIR}/install/RetortConfigVersion.cmake DESTINATION ${retort_package})

# Relative to where the .pc file lies, so that --prefix and moved trees work.
file(RELATIVE_PATH retort_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" retort_prefix "${retort_prefix}")
set(retort_archives ${retort_cpp_layers})
list(REVERSE retort_archives)
list(TRANSFORM retort_archives PREPEND -lretort_)
string(REPLACE ";" " " retort_archives "${retort_archives}")
foreach(file retort retort-cpp)
  configure_file(${CMAKE_SOURCE_DIR}/cmake/${file}.pc.in ${CMAKE_BINARY_DIR}/install/${file}.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/install/${file}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()

install(DIRECTORY ${CMAKE_SOURCE_DIR}/recipes ${CMAKE_SOURCE_DIR}/examples DESTINATION ${CMAKE_INSTALL_DATADIR}/retort)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES ${CMAKE_SOURCE_DIR}/README.md ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
