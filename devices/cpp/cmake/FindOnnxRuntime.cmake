# ONNX Runtime's C++ headers and library, as OnnxRuntime::OnnxRuntime.
#
# ORT_INCLUDE: folder of onnxruntime_cxx_api.h. ORT_LIBRARY: the shared library, such as the
# libonnxruntime.so.1.32.0 in Python's package onnxruntime.
find_path(ORT_INCLUDE onnxruntime_cxx_api.h PATH_SUFFIXES onnxruntime
          DOC "Folder of onnxruntime_cxx_api.h")
find_library(ORT_LIBRARY onnxruntime DOC "ONNX Runtime's shared library")

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntime REQUIRED_VARS ORT_LIBRARY ORT_INCLUDE)

if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::OnnxRuntime)
  add_library(OnnxRuntime::OnnxRuntime UNKNOWN IMPORTED)
  set_target_properties(
    OnnxRuntime::OnnxRuntime PROPERTIES IMPORTED_LOCATION "${ORT_LIBRARY}"
                                        INTERFACE_INCLUDE_DIRECTORIES "${ORT_INCLUDE}")
endif()
mark_as_advanced(ORT_INCLUDE ORT_LIBRARY)
