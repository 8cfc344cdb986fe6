// Limits of what files may hold, each enforced before memory for it is allocated. They are those
// of the Python package (`exportloss/runtime/artifact/limits.py`).
#pragma once

#include <cstdint>

namespace exportloss::limits {

inline constexpr std::uint64_t manifest_bytes = std::uint64_t{8} << 20;
inline constexpr std::uint64_t artifact_files = 64;
inline constexpr std::uint64_t model_bytes = (std::uint64_t{2} << 30) - 1;  // of a protocol buffer
inline constexpr std::uint64_t state_bytes = std::uint64_t{8} << 30;
inline constexpr std::uint64_t header_bytes = std::uint64_t{16} << 20;  // of a safetensors file
inline constexpr std::uint64_t tensors = 100'000;                       // of a state
inline constexpr std::uint64_t dimensions = 32;                         // of a tensor
inline constexpr std::int64_t classes = 100'000;
inline constexpr std::int64_t image_side = 1 << 16;  // pixels
inline constexpr std::int64_t rows = 1 << 20;        // images or target rows per batch
inline constexpr std::int64_t updates = std::int64_t{1} << 31;
inline constexpr int threads = 1024;
inline constexpr std::uint64_t image_bytes = std::uint64_t{1} << 28;  // of an image file
inline constexpr std::uint64_t label_bytes = std::uint64_t{1} << 22;  // of a label file
inline constexpr std::uint64_t label_lines = 20'000;

}  // namespace exportloss::limits
