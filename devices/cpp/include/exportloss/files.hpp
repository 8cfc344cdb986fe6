// Files read within limits, and files that are complete or absent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "exportloss/bytes.hpp"

namespace exportloss {

/// Whether a path may be a symbolic link.
enum class Links { follow, refuse };

/// Reads a whole file of at most `limit` bytes. Throws Error: there is no such file, it is larger,
/// it is not a regular file, or it cannot be read.
Bytes read_bounded(const std::filesystem::path& path, std::uint64_t limit,
                   Links links = Links::follow);

/// Returns whether there is nothing at a path. A path that cannot be looked up is not absent:
/// reading it says why.
bool is_absent(const std::filesystem::path& path);

/// Writes the parts, one after the other, to a file. They are written to `PATH.partial` first,
/// which then takes the place of `path`: an earlier file stays whole until the new one is complete
/// (on POSIX, on the disk). Throws Error: the file cannot be written.
void write_file(const std::filesystem::path& path, const std::vector<ByteView>& parts);

/// Returns a path as printable text, for messages.
std::string name_of(const std::filesystem::path& path);

}  // namespace exportloss
