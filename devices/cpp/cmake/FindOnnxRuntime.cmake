# ONNX Runtime's C++ headers and library, as OnnxRuntime::OnnxRuntime.
#
# ORT_INCLUDE: folder of onnxruntime_cxx_api.h. ORT_LIBRARY: the shared library. On Linux programs
# look for it as libonnxruntime.so.1, in its folder: that of Python's package onnxruntime needs a
# link of that name.
find_path(ORT_INCLUDE onnxruntime_cxx_api.h PATH_SUFFIXES onnxruntime
          DOC "Folder of onnxruntime_cxx_api.h")
find_library(ORT_LIBRARY onnxruntime DOC "ONNX Runtime's shared library")

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntime REQUIRED_VARS ORT_LIBRARY ORT_INCLUDE)

if(OnnxRuntime_FOUND AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
  get_filename_component(ort_folder "${ORT_LIBRARY}" DIRECTORY)
  if(NOT EXISTS "${ort_folder}/libonnxruntime.so.1")
    message(WARNING "Programs will not find ONNX Runtime: ${ort_folder} has no libonnxruntime.so.1. "
                    "Make a link of that name to ${ORT_LIBRARY}, in any folder, and pass its path "
                    "as ORT_LIBRARY.")
  endif()
endif()
if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::OnnxRuntime)
  add_library(OnnxRuntime::OnnxRuntime UNKNOWN IMPORTED)
  set_target_properties(
    OnnxRuntime::OnnxRuntime PROPERTIES IMPORTED_LOCATION "${ORT_LIBRARY}"
                                        INTERFACE_INCLUDE_DIRECTORIES "${ORT_INCLUDE}")
endif()
mark_as_advanced(ORT_INCLUDE ORT_LIBRARY)
