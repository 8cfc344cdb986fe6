// An artifacts folder, read once and checked.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "exportloss/bytes.hpp"
#include "exportloss/manifest.hpp"

namespace exportloss {

/// A checked artifacts folder.
struct Artifact {
  Manifest manifest;
  std::map<std::string, Bytes> files;  // content by name, as it was checked

  /// Returns the content of a file. Throws Error: the manifest names no such file.
  const Bytes& file(const std::string& name) const;
};

/// Reads every file of a folder that `listed` names, once its size and SHA-256 have been compared.
/// Throws Error: a file is missing, is a link, lies outside the folder, or differs.
std::map<std::string, Bytes> read_listed_files(const std::filesystem::path& folder,
                                               const std::map<std::string, FileEntry>& listed);

/// Reads every file that the manifest of a folder names, and compares its size and SHA-256.
/// Graphs are complete and refer to no other file. Files that this version does not know are
/// compared, and otherwise ignored.
///
/// Throws Error: a check failed; the message names the file.
Artifact open_artifact(const std::filesystem::path& folder);

}  // namespace exportloss
