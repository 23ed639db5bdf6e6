# One library per folder of src/, and a build step that refuses an include which points upwards or sideways.
#
#   retort_layer(io DEPENDS base model LINK ZLIB::ZLIB)
#
# (SEES instead of DEPENDS: may include its headers and needs none of its code. APART: every file is a unit of its own; other layers are
# compiled several files at a time where CMAKE_UNITY_BUILD is on, in a third of the time. CALCULATES: optimised in every build; the
# asan preset compiles the rest with -O0, in half the time.)
# compiles src/io/**/*.cc except *_test.cc into retort_io, and *_test.cc into the test program retort_io_test.
# A file whose name ends in _avx2.cc, _avx512.cc, _amx.cc, _neon.cc or _neon_dot.cc is compiled for that instruction set; everything else is plain x86-64
# (or whatever the target's baseline is), so a library never runs an instruction that it did not ask the CPU about.
set(RETORT_LAYER_EDGES "" CACHE INTERNAL "")

function(retort_isa_flags)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    foreach(file ${ARGN})
      if(file MATCHES "_neon_dot\\.cc$")
        set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod;-ffp-contract=off")
      elseif(file MATCHES "_(neon|scalar)\\.cc$")
        set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "-ffp-contract=off")  # what is fused is written
      endif()
    endforeach()
  endif()
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    return()
  endif()
  foreach(file ${ARGN})
    if(file MATCHES "_(avx512|amx)\\.cc$")
      set(unit "")
      if(file MATCHES "_amx\\.cc$")
        set(unit ";-mamx-tile;-mamx-int8;-mamx-bf16")
      endif()
      set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS
        "-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512vnni;-mavx512bf16;-mprefer-vector-width=512;-ffp-contract=off${unit}")
    elseif(file MATCHES "_avx2\\.cc$")
      set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c;-ffp-contract=off")
    endif()
  endforeach()
endfunction()

function(retort_layer name)
  cmake_parse_arguments(ARG "APART;CALCULATES" "" "DEPENDS;LINK;SEES" ${ARGN})
  file(GLOB_RECURSE files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cc)
  set(tests ${files})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER files EXCLUDE REGEX "_test\\.cc$")
  retort_isa_flags(${files} ${tests})
  if(files)
    add_library(retort_${name} STATIC ${files})
    if(ARG_APART)
      set_target_properties(retort_${name} PROPERTIES UNITY_BUILD OFF)
    endif()
    set(scope PUBLIC)
  else()
    add_library(retort_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  if(ARG_CALCULATES AND RETORT_SANITIZE)
    target_compile_options(retort_${name} PRIVATE -O1)
  endif()
  target_include_directories(retort_${name} ${scope} $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src> $<INSTALL_INTERFACE:include/retort>)
  foreach(dep ${ARG_DEPENDS})
    target_link_libraries(retort_${name} ${scope} retort_${dep})
  endforeach()
  target_link_libraries(retort_${name} ${scope} ${ARG_LINK} Threads::Threads)
  if(RETORT_TESTS AND tests)
    set_property(GLOBAL APPEND PROPERTY RETORT_UNIT_TESTS ${name})
    set_property(GLOBAL PROPERTY RETORT_UNIT_TESTS_${name} ${tests})
  endif()
  string(REPLACE ";" "," depends "${ARG_DEPENDS};${ARG_SEES}")
  set(RETORT_LAYER_EDGES "${RETORT_LAYER_EDGES};${name}:${name},${depends}" CACHE INTERNAL "")
endfunction()

# Call once after the last retort_layer(): `all` then depends on the check.
function(retort_check_layers)
  string(REPLACE ";" "|" edges "${RETORT_LAYER_EDGES}")
  string(REPLACE "," " " edges "${edges}")
  add_custom_target(retort_layers ALL
    COMMAND ${CMAKE_COMMAND} -DSRC=${CMAKE_SOURCE_DIR}/src "-DEDGES=${edges}" -P ${CMAKE_SOURCE_DIR}/cmake/check_layers.cmake
    COMMENT "Checking that includes point downwards" VERBATIM)
endfunction()
