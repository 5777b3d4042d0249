# Finds ONNX Runtime's C++ headers and sets ORT_INCLUDE. A library built on 1.17's loads on every
# later runtime, one built on later headers does not, so the oldest are wanted; the onnxruntime
# wheel ships none. In order: $ORT_INCLUDE_DIR, the system's, those in a small public wheel.

set(quark "amd-quark==0.13")
set(quark_sha256 3b3e58a4cbbcff20d27815b641aa4de4d698efde3c782306cb4a6a05bcf55c8c)

function(find_headers)
  find_path(found onnxruntime_cxx_api.h NO_CACHE NO_DEFAULT_PATH PATHS ${ARGN}
    PATH_SUFFIXES onnxruntime/core/session core/session)
  set(found ${found} PARENT_SCOPE)
endfunction()

# The wheel, by pip and by hash, without the packages it asks for.
function(fetch_wheel folder)
  find_package(Python3 COMPONENTS Interpreter QUIET)
  file(MAKE_DIRECTORY ${folder})
  file(WRITE ${folder}/requirements.txt "${quark} --hash=sha256:${quark_sha256}\n")
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -m pip download --quiet --disable-pip-version-check --no-deps
      --require-hashes --only-binary :all: --dest ${folder} --requirement ${folder}/requirements.txt
    RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
  file(GLOB wheel ${folder}/*.whl)
  if(wheel)
    file(ARCHIVE_EXTRACT INPUT ${wheel} DESTINATION ${folder} PATTERNS "*/onnxruntime-1.17.0/*")
  endif()
endfunction()

if(DEFINED ENV{ORT_INCLUDE_DIR})
  find_headers($ENV{ORT_INCLUDE_DIR})
  if(NOT found)
    message(FATAL_ERROR "ORT_INCLUDE_DIR=$ENV{ORT_INCLUDE_DIR} holds no onnxruntime_cxx_api.h")
  endif()
else()
  find_headers(/usr/include/onnxruntime /usr/local/include/onnxruntime)
  if(NOT found)
    set(folder ${CMAKE_BINARY_DIR}/onnxruntime_headers)
    set(unpacked quark/onnx/operators/custom_ops/include/onnxruntime-1.17.0)
    find_headers(${folder}/${unpacked})
    if(NOT found)
      fetch_wheel(${folder})
      find_headers(${folder}/${unpacked})
    endif()
  endif()
endif()
if(NOT found)
  message(FATAL_ERROR "ONNX Runtime's headers are missing: set ORT_INCLUDE_DIR, install "
    "libonnxruntime-dev, or let pip reach a package index that has ${quark}")
endif()
set(ORT_INCLUDE ${found})
message(STATUS "ONNX Runtime headers: ${ORT_INCLUDE}")
